"""The reference: the exported graph at full size, with the removed units masked.

Whatever mixes channels must not see a removed one. A contraction (linear layer, convolution, attention) reads zeros in
its place; a normalisation or another statistic is taken over what is kept. All other operations keep channels apart,
so what they make of a removed channel is never looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from optuna_softprune.graph import mixed_axes, operation_name
from optuna_softprune.removal._remove import kept_indices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from optuna_softprune.graph import ExportedGraph, Network
    from optuna_softprune.removal._remove import Kept

# Contractions that read zeros in the place of removed units -> in which argument; of `einsum` in the first of a list.
CONTRACTIONS = {"addmm": 1, "baddbmm": 1, "einsum": 1, "linear": 0, "matmul": 0, "mm": 0, "bmm": 0}
CONTRACTIONS |= {f"conv{transposed}{n}d": 0 for transposed in ("", "_transpose") for n in (1, 2, 3)}
CONTRACTIONS |= {"scaled_dot_product_attention": 0}


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
    exported = network.exported
    # Copies of all that a forward pass may write to.
    held = dict(model.named_parameters()) | {name: buffer.clone() for name, buffer in model.named_buffers()}
    given = dict(zip(exported.inputs, inputs, strict=True))
    values: dict[Node, Any] = {}
    waiting = {node: len(node.users) for node in exported.graph.nodes}
    for node in exported.graph.nodes:
        if node.op == "output":
            return [values[each] if isinstance(each, Node) else each for each in node.args[0]]
        if node.op == "placeholder":
            values[node] = _placeholder(node.name, exported, held, given)
        elif node.op == "get_attr":
            values[node] = getattr(exported.graph.owning_module, str(node.target))
        else:
            values[node] = _run(node, values, network, kept)
        for source in node.all_input_nodes:
            waiting[source] -= 1
            if not waiting[source]:
                del values[source]
    raise AssertionError("a graph ends with its output")


def _placeholder(name: str, exported: ExportedGraph, held: Mapping[str, Tensor], given: Mapping[str, Any]) -> Any:
    if name in exported.tensors:
        return held[exported.tensors[name]]
    value = exported.constants[name] if name in exported.constants else given[name]
    return value.clone() if isinstance(value, Tensor) else value


def _run(node: Node, values: Mapping[Node, Any], network: Network, kept: Kept) -> Any:
    args, kwargs = map_arg(node.args, values.__getitem__), map_arg(node.kwargs, values.__getitem__)
    operation: Any = node.target
    name = operation_name(node)
    if name in CONTRACTIONS:
        at = CONTRACTIONS[name]
        args = (*args[:at], _zeroed(node.args[at], args[at], network, kept), *args[at + 1 :])
        if name == "scaled_dot_product_attention":
            args = _of_kept_keys(node, args, network, kept)
    if name in NORMS and (masks := _masks(node.args[0], network, kept)):
        return NORMS[name](masks, *args, **kwargs)
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


def _of_kept_keys(node: Node, args: tuple[Any, ...], network: Network, kept: Kept) -> tuple[Any, ...]:
    """Return the arguments of attention without the keys that are removed."""
    keys = args[1].dim() - 2
    mask = _masks(node.args[1], network, kept).get(keys)
    if mask is None:
        return args
    stays = mask.flatten().nonzero().flatten()
    q, k, v, *more = args
    if more and isinstance(more[0], Tensor) and more[0].shape[-1] > 1:
        more[0] = more[0].index_select(-1, stays)
    return (q, k.index_select(keys, stays), v.index_select(keys, stays), *more)


def _over_kept(
    node: Node, axes: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any], network: Network, kept: Kept
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


def _normalised(x: Tensor, stays: Tensor, axes: list[int], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) with the moments of what stays, over `axes`."""
    stays = stays.expand(x.shape)
    weight = stays.to(x.dtype)
    count = weight.sum(axes, keepdim=True).clamp(min=1)
    x = torch.where(stays, x, torch.zeros((), dtype=x.dtype))
    mean = x.sum(axes, keepdim=True) / count
    var = ((x - mean) ** 2 * weight).sum(axes, keepdim=True) / count
    normalised: Tensor = (x - mean) / (var + eps).sqrt()
    return normalised


def _layer_norm(
    masks: Mapping[int, Tensor],
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    axes = range(x.dim() - len(normalized_shape), x.dim())
    stays = torch.ones((1,) * x.dim(), dtype=torch.bool)
    for axis in axes:
        if axis in masks:
            stays = stays & masks[axis]
    y = _normalised(x, stays, list(axes), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(
    masks: Mapping[int, Tensor],
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    stays = masks.get(1, torch.ones((1, 1), dtype=torch.bool)).reshape(-1)
    grouped = x.reshape(x.shape[0], groups, -1)
    each = math.prod(x.shape[2:])
    stays = stays.expand(x.shape[1]).repeat_interleave(each).reshape(1, groups, -1)
    y = _normalised(grouped, stays, [2], eps).reshape(x.shape)
    view = (1, -1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.view(view)
    return y if bias is None else y + bias.view(view)


def _rms_norm(
    masks: Mapping[int, Tensor],
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = range(x.dim() - len(normalized_shape), x.dim())
    stays = torch.ones(x.shape, dtype=torch.bool)
    for axis in axes:
        if axis in masks:
            stays = stays & masks[axis]
    squares = torch.where(stays, x * x, torch.zeros((), dtype=x.dtype))
    mean = squares.sum(tuple(axes), keepdim=True) / stays.sum(tuple(axes), keepdim=True)
    y = x / (mean + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt()
    return y if weight is None else y * weight


NORMS: dict[str, Any] = {"layer_norm": _layer_norm, "group_norm": _group_norm, "rms_norm": _rms_norm}
