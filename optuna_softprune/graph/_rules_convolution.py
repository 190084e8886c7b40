"""Rules of convolutions: plain, in groups, depthwise, with a channel multiplier, transposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_softprune.graph._labels import Value, along, flat, layer
from optuna_softprune.graph._rules_mixing import couple_bias, keeps_whole_groups
from optuna_softprune.graph._rules_windows import slide, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.fx import Node

    from optuna_softprune.graph._propagate import Propagation
    from optuna_softprune.graph._rules_windows import Window


def convolution(
    p: Propagation,
    node: Node,
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Convolve; weight (out, in / groups, *window)."""
    n = len(p.shape(weight)) - 2
    taps = windows(n, p.shape(weight)[2:], stride, padding, dilation)
    return _convolve(p, node, x, weight, bias, groups, taps, transposed=False)


def transposed_convolution(
    p: Propagation,
    node: Node,
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """Convolve transposed; weight (in, out / groups, *window)."""
    return _convolve(p, node, x, weight, bias, groups, (), transposed=True)


def _convolve(
    p: Propagation,
    node: Node,
    x: Node,
    weight: Node,
    bias: Node | None,
    groups: int,
    taps: Sequence[Window],
    *,
    transposed: bool,
) -> Value:
    shape, weight_shape, x_shape = p.shape(node), p.shape(weight), p.shape(x)
    channel = len(shape) - len(weight_shape) + 1
    window = range(channel + 1, len(shape))
    slid, value = slide(p, node, x, taps)
    value = p.fix_along(value, window, "the window of a convolution")
    width_in, passed = p.channel(value, channel, "the channels of a convolution")
    kernel = p.fix_along(p.value(weight), range(2, len(weight_shape)), "the window of a convolution")
    read, rest = p.channel(kernel, int(not transposed), "the input axis of a weight")
    made, _ = p.channel(rest, int(transposed), "the output axis of a weight")

    in_group, out_group = x_shape[channel] // groups, shape[channel] // groups
    if groups == 1:
        p.unite(width_in, read, p.origin(weight) if read is None else p.origin(x))
    elif keeps_whole_groups(groups, in_group, out_group):
        made = _lose_whole_groups(p, node, width_in, read, made, x, groups, transposed=transposed)
    else:
        made = _lose_positions(p, width_in, read, made, x, groups, transposed=transposed)

    couple_bias(p, made, bias, p.origin(weight))
    p.attribute(node, "in_channels", width_in)
    p.attribute(node, "out_channels", made)
    p.take_sides(weight, int(not transposed), int(transposed))
    whole = x if transposed else node
    p.macs[node] = [[(whole, a) for a in range(len(shape))] + [(weight, a) for a in range(1, len(weight_shape))]]
    layers = [layer(flat(found.labels, range(channel, len(shape)), shape)) for found in passed]
    return (*layers, *slid, *([] if made is None else [along(made, channel, shape)]))


def _lose_whole_groups(
    p: Propagation,
    node: Node,
    width_in: Tensor | None,
    read: Tensor | None,
    made: Tensor | None,
    x: Node,
    groups: int,
    *,
    transposed: bool,
) -> Tensor | None:
    """Tie all that one group of a grouped convolution reads and makes; the width within a group stays."""
    origin = p.origin(x)
    stays = "the width of one group of a grouped convolution"
    # The axis of the weight that runs over all groups, and the one within a group.
    across, within = (read, made) if transposed else (made, read)
    if within is not None:
        p.labels.protect(within, stays)
    if across is None or width_in is None:
        p.unite(width_in, across, origin if width_in is None else "coupled to a computed weight")
        return None
    by_group = across.reshape(groups, -1)
    heads = by_group[:, :1]
    p.unite(by_group, heads, stays)
    p.unite(width_in.reshape(groups, -1), heads, stays)
    p.attribute(node, "groups", heads[:, 0])
    p.follow_number(node, heads[:, 0])
    if not transposed:
        return across
    out_group = p.shape(node)[len(p.shape(node)) - len(p.shape(x)) + 1] // groups
    return heads.expand(groups, out_group).reshape(-1)


def _lose_positions(
    p: Propagation,
    width_in: Tensor | None,
    read: Tensor | None,
    made: Tensor | None,
    x: Node,
    groups: int,
    *,
    transposed: bool,
) -> Tensor | None:
    """Tie the same position in every group of a grouped convolution; the number of groups stays."""
    stays = "the same position in every group of a grouped convolution"
    by_group = None if width_in is None else width_in.reshape(groups, -1)
    if by_group is not None:
        p.unite(by_group, by_group[:1], stays)
    if transposed:
        read = None if read is None else read.reshape(groups, -1)
        if read is not None:
            p.unite(read, read[:1], stays)
    p.unite(by_group, read, p.origin(x) if width_in is None else "coupled to a computed weight")
    if made is None:
        return None
    if transposed:
        return made.expand(groups, -1).reshape(-1)
    rows = made.reshape(groups, -1)
    p.unite(rows, rows[:1], stays)
    return made
