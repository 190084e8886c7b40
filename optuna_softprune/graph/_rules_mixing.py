"""Rules of operations that compute with whole axes: contractions, normalisation, windows, reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_softprune.graph._labels import Value, along, flat, layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.fx import Node

    from optuna_softprune.graph._propagate import Propagation, Rule


def linear(p: Propagation, node: Node, x: Node, weight: Node, bias: Node | None = None) -> Value:
    """Compute y = x W^T + b: the last axis of x is tied to axis 1 of W; axis 0 of W becomes the last axis of y."""
    return _contract(p, node, x, weight, bias, weight_in=1)


def matmul(p: Propagation, node: Node, x: Node, weight: Node) -> Value:
    """Compute y = x W with a matrix W (input, output). Products of activations in batches protect what they touch."""
    if len(p.shape(weight)) != 2:
        reason = f"`matmul` of batches has no rule (in `{p.module_path(node)}`)"
        p.fix(p.value(x), reason)
        p.fix(p.value(weight), reason)
        return ()
    return _contract(p, node, x, weight, None, weight_in=0)


def _contract(p: Propagation, node: Node, x: Node, weight: Node, bias: Node | None, weight_in: int) -> Value:
    shape, last = p.shape(node), len(p.shape(node)) - 1
    width_in, passed = p.channel(p.value(x), len(p.shape(x)) - 1, "the input axis of a linear layer")
    read, rest = p.channel(p.value(weight), weight_in, "the input axis of a weight")
    made, rest = p.channel(rest, 1 - weight_in, "the output axis of a weight")
    p.unite(width_in, read, p.origin(weight) if read is None else p.origin(x))
    p.macs[node] = [(node, axis) for axis in range(len(shape))] + [(weight, weight_in)]
    p.take_sides(weight, weight_in, 1 - weight_in)
    couple_bias(p, made, bias, p.origin(weight))
    p.attribute(node, "in_features", width_in)
    p.attribute(node, "out_features", made)
    layers = [layer(flat(found.labels, [last], shape)) for found in passed]
    return (*layers, *([] if made is None else [along(made, last, shape)]))


def couple_bias(p: Propagation, made: Tensor | None, bias: Node | None, origin: str) -> None:
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
    """Normalise each channel (axis 1) over all other axes."""
    return _per_channel(p, node, x, [weight, bias, mean, var], mixed=[0, *range(2, len(p.shape(x)))])


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
    """Normalise each channel (axis 1) of each sample over the axes behind it."""
    return _per_channel(p, node, x, [weight, bias, mean, var], mixed=range(2, len(p.shape(x))))


def _per_channel(p: Propagation, node: Node, x: Node, vectors: Sequence[Node | None], mixed: Sequence[int]) -> Value:
    width, passed = _with_channel_vectors(p, x, vectors, mixed)
    p.attribute(node, "num_features", width)
    return (*passed, *([] if width is None else [along(width, 1, p.shape(x))]))


def _with_channel_vectors(
    p: Propagation, x: Node, vectors: Sequence[Node | None], mixed: Sequence[int]
) -> tuple[Tensor | None, Value]:
    """Unite the channels (axis 1) of `x` with vectors (channels,); return them and the other layers of x."""
    value = p.fix_along(p.value(x), mixed, "the axes over which a norm takes its statistics")
    width, passed = p.channel(value, 1, "the channels of a norm")
    for each in vectors:
        if each is not None:
            found, _ = p.channel(p.value(each), 0, "the channels of a norm")
            p.unite(width, found, p.origin(x) if width is None else p.origin(each))
    return width, passed


def prelu(p: Propagation, node: Node, x: Node, weight: Node) -> Value:
    """Scale what is negative, by channel (axis 1) or with one number."""
    if p.shape(weight) == (1,):
        return p.value(x)
    result = _per_channel(p, node, x, [weight], mixed=[])
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
    width, passed = _with_channel_vectors(p, x, [weight, bias], range(2, len(shape)))
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
    """Normalise over the last axes; what is removed leaves the statistics of what is kept."""
    shape = p.shape(x)
    operands = [each for each in (x, weight, bias) if each is not None]
    value = p.elementwise(operands, shape)
    lead = len(shape) - len(normalized_shape)
    for found in value:
        if len(found.axes) == 1 and found.axes[0] >= lead:
            width, _ = p.channel((found,), found.axes[0], "")
            p.attribute(node, "normalized_shape", width, found.axes[0] - lead)
    return value


def window(n: int) -> Rule:
    """Return the rule of an operation that mixes positions along the last `n` axes: pooling, interpolation."""

    def rule(p: Propagation, node: Node, x: Node, *settings: Any, **more: Any) -> Value | list[Value]:
        rank = len(p.shape(x))
        return _mixed(p, node, x, range(rank - n, rank), "the window of a pooling or an interpolation")

    return rule


def reduction(p: Propagation, node: Node, x: Node, dim: Any = None, *settings: Any, **more: Any) -> Value | list[Value]:
    """Reduce or accumulate over axes, all of them if `dim` is None or empty."""
    if hasattr(dim, "meta"):  # `max(x, y)` of two tensors is element by element
        return p.elementwise([x, dim], p.shape(node))
    rank = len(p.shape(x))
    if isinstance(dim, bool):  # `var(x, unbiased)` has no `dim`
        dim = None
    dims = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return _mixed(p, node, x, [axis % rank for axis in dims], "a reduction over the axis")


def norm_reduction(
    p: Propagation, node: Node, x: Node, order: Any = 2, dim: Any = None, *settings: Any, **more: Any
) -> Value | list[Value]:
    """Take a vector norm over axes."""
    return reduction(p, node, x, dim)


def _mixed(p: Propagation, node: Node, x: Node, axes: Sequence[int], reason: str) -> Value | list[Value]:
    """Keep the length of `axes`, along which values are mixed; the others pass to every output."""
    passed = p.fix_along(p.value(x), axes, reason)
    rank = len(p.shape(x))
    found = node.meta["val"]
    results = []
    for out in found if isinstance(found, (list, tuple)) else [found]:
        if out.dim() == rank:
            spread = [flat(each.labels, axes, out.shape) for each in passed]
        else:
            spread = [_without(each.labels, axes).expand(tuple(out.shape)) for each in passed]
        results.append(tuple(layer(labels) for labels in spread))
    return results if isinstance(found, (list, tuple)) else results[0]


def _without(labels: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        labels = labels.select(axis, 0)
    return labels
