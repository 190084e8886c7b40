"""The reference: the exported graph at full size, with the removed units masked.

Whatever mixes channels must not see a removed one. A contraction (linear layer, convolution) reads zeros in its
place; a normalisation takes its statistics over what is kept. All other operations keep channels apart, so what
they make of a removed channel is never looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from optuna_softprune.graph import operation_name
from optuna_softprune.removal._remove import kept_indices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from optuna_softprune.graph import ExportedGraph, Network
    from optuna_softprune.removal._remove import Kept

CONTRACTIONS = frozenset(
    ["linear", "matmul", "mm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
)


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
    if name in CONTRACTIONS or name in NORMS:
        masks = _masks(node.args[0], network, kept)
        if masks and name in NORMS:
            return NORMS[name](masks, *args, **kwargs)
        x: Any = args[0]
        for mask in masks.values():
            x = torch.where(mask, x, torch.zeros((), dtype=x.dtype))
        return operation(x, *args[1:], **kwargs)
    return operation(*args, **kwargs)


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


NORMS: dict[str, Any] = {"layer_norm": _layer_norm, "group_norm": _group_norm}
