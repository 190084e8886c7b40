"""The reference: the exported graph at full size, with the removed units masked.

Whatever mixes channels must not see a removed one. A contraction (linear layer, convolution, attention) reads zeros in
its place; a normalisation or another statistic is taken over what is kept. All other operations keep channels apart,
so what they make of a removed channel is never looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optuna_softprune.graph import CONTRACTIONS, RECURRENT, kept_indices, mixed_axes, operation_name, region
from optuna_softprune.program import program
from optuna_softprune.removal._masked_norms import NORMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.fx import Node

    from optuna_softprune.graph import Kept, Network


def masked_outputs(model: nn.Module, network: Network, kept: Kept, inputs: Sequence[Any]) -> list[Any]:
    """Run the graph with the weights of `model` and masks for the units that are not kept.

    Args:
        model: The dense network on the CPU in working precision; it is only read.
        network: Its groups and graph.
        kept: Shape (units,): whether each unit stays.
        inputs: The flat inputs in working precision; they are not written.

    Returns:
        The flat outputs, in working precision on the CPU.
    """
    steps = program(network)
    # Copies of all that a forward pass may write to.
    held = dict(model.named_parameters()) | {name: buffer.clone() for name, buffer in model.named_buffers()}
    values: list[Any] = [None] * len(steps.number)
    for number, name in steps.tensors.items():
        values[number] = held[name]
    given = {**steps.constants, **dict(zip(steps.inputs, inputs, strict=True))}
    for number, value in given.items():
        values[number] = value.clone() if isinstance(value, Tensor) else value
    for number, step in steps.steps.items():
        args, kwargs = step.arguments(values, None)
        with region(step.node):
            values[number] = _run(step.node, args, kwargs, network, kept)
        for done in step.done_with:
            values[done] = None
    return steps.returned(values)


def _run(node: Node, args: list[Any], kwargs: dict[str, Any], network: Network, kept: Kept) -> Any:
    if node.op == "get_attr":
        return getattr(network.exported.graph.owning_module, str(node.target))
    operation: Any = node.target
    name = operation_name(node)
    if name in CONTRACTIONS:
        at = CONTRACTIONS[name]
        args[at] = _zeroed(node.args[at], args[at], network, kept)
        if name == "scaled_dot_product_attention":
            args = _of_kept_keys(node, args, network, kept)
    if name in RECURRENT:
        args = _of_kept_state(node, args, network, kept)
    if name in NORMS and (masks := _masks(node.args[0], network, kept)):
        return NORMS[name](operation, masks, *args, **kwargs)
    if axes := mixed_axes(node):
        return _over_kept(node, axes, args, kwargs, network, kept)
    return operation(*args, **kwargs)


def _zeroed(node: Any, x: Any, network: Network, kept: Kept) -> Any:
    """Return an operand, or the first of several, with zeros in place of what is removed."""
    if isinstance(node, (list, tuple)):
        return [_zeroed(node[0], x[0], network, kept), *x[1:]]
    for mask in _masks(node, network, kept).values():
        x = torch.where(mask, x, torch.zeros((), dtype=x.dtype))
    return x


def _of_kept_keys(node: Node, args: list[Any], network: Network, kept: Kept) -> list[Any]:
    """Return the arguments of attention without the keys that are removed."""
    keys = args[1].dim() - 2
    mask = _masks(node.args[1], network, kept).get(keys)
    if mask is None:
        return args
    stays = mask.flatten().nonzero().flatten()
    q, k, v, *more = args
    if more and isinstance(more[0], Tensor) and more[0].shape[-1] > 1:
        more[0] = more[0].index_select(-1, stays)
    return [q, k.index_select(keys, stays), v.index_select(keys, stays), *more]


def _of_kept_state(node: Node, args: list[Any], network: Network, kept: Kept) -> list[Any]:
    """Return the arguments of a recurrent layer with zeros where its input and its weights read what is removed."""
    x, states, weights, *settings = args
    nodes: Any = node.args[2]
    columns = [
        torch.where(mask, weight, torch.zeros((), dtype=weight.dtype))
        if (mask := _masks(each, network, kept).get(1)) is not None
        else weight
        for each, weight in zip(nodes, weights, strict=True)
    ]
    return [_zeroed(node.args[0], x, network, kept), states, columns, *settings]


def _over_kept(
    node: Node, axes: Sequence[int], args: list[Any], kwargs: dict[str, Any], network: Network, kept: Kept
) -> Any:
    """Run an operation that relates elements along `axes` to each other on those that are kept."""
    operation: Any = node.target
    x, *settings = args
    masks = {axis: mask for axis, mask in _masks(node.args[0], network, kept).items() if axis in axes}
    stay = {axis: mask.flatten().nonzero().flatten() for axis, mask in masks.items()}
    for axis, indices in stay.items():
        x = x.index_select(axis, indices)
    result = operation(x, *settings, **kwargs)
    dense: Any = node.args[0]
    if isinstance(result, Tensor) and result.dim() == dense.meta["val"].dim():  # what was kept, in its place again
        for axis, mask in _masks(node, network, kept).items():
            if axis in stay:
                full = [*result.shape[:axis], mask.numel(), *result.shape[axis + 1 :]]
                result = result.new_zeros(full).index_copy(axis, mask.flatten().nonzero().flatten(), result)
    return result


def _masks(node: Any, network: Network, kept: Kept) -> dict[int, Tensor]:
    """Return axis -> mask, shaped to broadcast, of the axes of which something is removed."""
    masks = {}
    for axis, units in network.nodes.get(node, ()):
        stays = kept_indices(units, kept)
        if not stays.all():
            view = [1] * len(node.meta["val"].shape)
            view[axis] = -1
            masks[axis] = torch.from_numpy(stays).view(view)
    return masks
