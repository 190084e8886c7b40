"""Rules of operations that compute with whole axes: normalisation and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.fx import Node

from optuna_softprune.graph._labels import Value, along, flat, layer

COUNTED = "the forward pass counts positions along it"

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from optuna_softprune.graph._propagate import Propagation
    from optuna_softprune.graph._reasons import Reason


def couple_bias(p: Propagation, made: Tensor | None, bias: Node | None, origin: Reason) -> None:
    """Tie a bias (output,) to the labels of the outputs."""
    if bias is not None:
        found, _ = p.channel(p.value(bias), 0, "a bias")
        p.unite(made, found, origin if made is None else p.origin(bias))


def keeps_whole_groups(groups: int, width_in: int, width_out: int) -> bool:
    """Whether a convolution in groups of `width_in` x `width_out` channels loses whole groups.

    Else every group loses the same positions. Both are exact; taken is what leaves more units. Depthwise
    convolutions lose whole groups: each is one input channel and what is made of it.
    """
    return groups > max(width_in, width_out)


def batch_norm(
    p: Propagation,
    node: Node,
    x: Node,
    weight: Node | None,
    bias: Node | None,
    mean: Node | None,
    var: Node | None,
    *settings: Any,
) -> Value:
    """Normalise each channel (axis 1), by stored statistics or by those of what is kept along all other axes."""
    return _per_channel(p, node, x, [weight, bias, mean, var])


def instance_norm(
    p: Propagation,
    node: Node,
    x: Node,
    weight: Node | None,
    bias: Node | None,
    mean: Node | None,
    var: Node | None,
    *settings: Any,
) -> Value:
    """Normalise each channel (axis 1) of each sample over what is kept along the axes behind it."""
    return _per_channel(p, node, x, [weight, bias, mean, var])


def _per_channel(p: Propagation, node: Node, x: Node, vectors: Sequence[Node | None]) -> Value:
    width, passed = _with_channel_vectors(p, x, p.value(x), vectors)
    p.attribute(node, "num_features", width)
    return (*passed, *([] if width is None else [along(width, 1, p.shape(x))]))


def _with_channel_vectors(
    p: Propagation, x: Node, value: Value, vectors: Sequence[Node | None]
) -> tuple[Tensor | None, Value]:
    """Unite the channels (axis 1) of `x` with vectors (channels,); return them and the other layers of x."""
    width, passed = p.channel(value, 1, "the channels of a norm")
    for each in vectors:
        if each is not None:
            found, _ = p.channel(p.value(each), 0, "the channels of a norm")
            p.unite(width, found, p.origin(x) if width is None else p.origin(each))
    return width, passed


def prelu(p: Propagation, node: Node, x: Node, weight: Node) -> Value:
    """Scale what is negative, by channel (axis 1) or with one number."""
    if p.shape(weight) == (1,):
        p.fix(p.value(weight), "one number for all channels")
        return p.value(x)
    result = _per_channel(p, node, x, [weight])
    p.attribute(node, "num_parameters", p.channel(result, 1, "")[0])
    return result


def group_norm(
    p: Propagation,
    node: Node,
    x: Node,
    groups: int,
    weight: Node | None = None,
    bias: Node | None = None,
    *settings: Any,
) -> Value:
    """Normalise groups of channels (axis 1): whole groups go, or the same position of every group."""
    shape = p.shape(x)
    value = p.fix_along(p.value(x), range(2, len(shape)), "the axes over which a norm takes its statistics")
    width, passed = _with_channel_vectors(p, x, value, [weight, bias])
    if width is None:
        return passed
    by_group = width.reshape(groups, -1)
    if keeps_whole_groups(groups, by_group.shape[1], by_group.shape[1]):
        p.unite(by_group, by_group[:, :1], "a whole group of a group norm")
        p.attribute(node, "num_groups", by_group[:, 0])
    else:
        p.unite(by_group, by_group[:1], "the same position in every group of a group norm")
    p.attribute(node, "num_channels", width)
    return (*passed, along(width, 1, shape))


def layer_norm(
    p: Propagation,
    node: Node,
    x: Node,
    normalized_shape: Sequence[int],
    weight: Node | None = None,
    bias: Node | None = None,
    *settings: Any,
) -> Value:
    """Normalise over the last axes, by the mean and variance or the root mean square of what is kept."""
    shape = p.shape(x)
    operands = [each for each in (x, weight, bias) if isinstance(each, Node)]
    value = p.elementwise(operands, shape)
    lead = len(shape) - len(normalized_shape)
    for found in value:
        if len(found.axes) == 1 and found.axes[0] >= lead:
            width, _ = p.channel((found,), found.axes[0], "")
            p.attribute(node, "normalized_shape", width, found.axes[0] - lead)
    return value


def reduction(p: Propagation, node: Node, x: Node, dim: Any = None, *settings: Any, **more: Any) -> Value | list[Value]:
    """Reduce over axes, all of them if `dim` is None or empty: to a statistic of what is kept along them."""
    if hasattr(dim, "meta"):  # `max(x, y)` of two tensors is element by element
        return p.elementwise([x, dim], p.shape(node))
    axes = _axes(len(p.shape(x)), dim)
    left = p.summed(p.value(x), axes)
    results = to_outputs(node, left, axes, len(p.shape(x)))
    positions = isinstance(results, list) and not _is_floating(node.meta["val"][1])
    if positions and any(user.args[1] == 1 and user.users for user in node.users):
        p.fix_along(p.value(x), axes, COUNTED)
    return results


def position(p: Propagation, node: Node, x: Node, dim: Any = None, *settings: Any) -> Value | list[Value]:
    """Return where something stands along an axis, which therefore stays."""
    axes = _axes(len(p.shape(x)), dim)
    return to_outputs(node, p.fix_along(p.value(x), axes, COUNTED), axes, len(p.shape(x)))


def accumulation(p: Propagation, node: Node, x: Node, *settings: Any, **more: Any) -> Value:
    """Relate each element to others along an axis: to those that are kept."""
    return p.value(x)


def norm_reduction(
    p: Propagation, node: Node, x: Node, order: Any = 2, dim: Any = None, *settings: Any, **more: Any
) -> Value | list[Value]:
    """Take a vector norm over axes."""
    return reduction(p, node, x, dim)


def mixed_axes(node: Node, position: int) -> Sequence[int]:
    """Return the axes along which an operation relates elements to each other; argument `position` states them."""
    x: Any = node.args[0]
    dim = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    return () if isinstance(dim, Node) else _axes(len(x.meta["val"].shape), dim)


def _axes(rank: int, dim: Any) -> Sequence[int]:
    """Return the axes that an argument `dim` of a tensor with `rank` axes states."""
    if isinstance(dim, bool):  # `var(x, unbiased)` has no `dim`
        dim = None
    dims = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [axis % rank for axis in dims]


def _is_floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def to_outputs(node: Node, left: Value, axes: Sequence[int], rank: int) -> Value | list[Value]:
    """Return what passes to every output of layers that do not vary along `axes`."""
    found = node.meta["val"]
    results = []
    for out in found if isinstance(found, (list, tuple)) else [found]:
        if out.dim() == rank:
            spread = [flat(each.labels, axes, out.shape) for each in left]
        else:
            spread = [_without(each.labels, axes).expand(tuple(out.shape)) for each in left]
        results.append(tuple(layer(labels) for labels in spread))
    return results if isinstance(found, (list, tuple)) else results[0]


def _without(labels: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        labels = labels.select(axis, 0)
    return labels
