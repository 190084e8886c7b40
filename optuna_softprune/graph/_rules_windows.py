"""Rules of windows: operations that mix neighbours along the last axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_softprune.graph._labels import Layer, Value, along, flat, vector
from optuna_softprune.graph._rules_mixing import to_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import Node

    from optuna_softprune.graph._propagate import Propagation, Rule

WINDOW = "the window of a pooling or an interpolation"


class Window(NamedTuple):
    """The taps of a window along one axis."""

    taps: int
    stride: int
    padding: int
    dilation: int


def window(n: int) -> Rule:
    """Return the rule of an operation that mixes positions along the last `n` axes: pooling, interpolation."""

    def rule(p: Propagation, node: Node, x: Node, *settings: Any, **more: Any) -> Value | list[Value]:
        return to_outputs(node, *_mixed(p, x, p.value(x), n))

    return rule


def average(n: int) -> Rule:
    """Return the rule of averages over windows along the last `n` axes."""

    def rule(
        p: Propagation, node: Node, x: Node, size: Any, stride: Any = (), padding: Any = 0, *settings: Any, **more: Any
    ) -> Value:
        slid, left = slide(p, node, x, windows(n, size, stride or size, padding, 1))
        mixed = to_outputs(node, *_mixed(p, x, left, n))
        assert isinstance(mixed, tuple)
        return (*mixed, *slid)

    return rule


def grid_sample(p: Propagation, node: Node, x: Node, grid: Node, *settings: Any) -> Value:
    """Interpolate x (batch, channels, *positions) at the places grid (batch, *places, coordinates)."""
    shape, places = p.shape(node), range(2, len(p.shape(node)))
    left = p.fix_along(p.value(x), places, WINDOW)
    at = p.fix_along(p.value(grid), range(1, len(p.shape(grid))), WINDOW)
    once = (*shape[:2], *(1 for _ in places))
    read = tuple(Layer(flat(found.labels, places, once), found.axes) for found in left)
    where = tuple(along(vector(found.labels, 0), 0, shape) for found in at)
    return p.combine([(read, once, p.origin(x)), (where, (shape[0], 1, *shape[2:]), p.origin(grid))], shape)


def _mixed(p: Propagation, x: Node, value: Value, n: int) -> tuple[Value, Sequence[int], int]:
    """Return the layers that do not vary along the last `n` axes of `x`, these axes, and how many axes it has."""
    rank = len(p.shape(x))
    axes = range(rank - n, rank)
    return p.fix_along(value, axes, WINDOW), axes, rank


def windows(n: int, *settings: Any) -> list[Window]:
    """Return the windows of the last `n` axes: of taps, stride, padding and dilation, a number or one for each axis.

    There are none where padding is given by name.
    """
    if any(isinstance(each, str) for each in settings):
        return []
    listed = [[each] if isinstance(each, int) else list(each) for each in settings]
    return [Window(*each) for each in zip(*(each * n if len(each) == 1 else each for each in listed), strict=True)]


def slide(p: Propagation, node: Node, x: Node, windows: Sequence[Window]) -> tuple[Value, Value]:
    """Part the layers of `x` into those along which a window slides from unit to unit, and all others.

    A window over channels (there is but one where channels would be) reads units that are kept next to each other,
    and makes one value for each: that of the unit at its centre.
    """
    out, before = p.shape(node), p.shape(x)
    slid: list[Layer] = []
    left: list[Layer] = []
    for found in p.value(x):
        axis = found.axes[0]
        at = axis - len(before) + len(windows)
        if len(found.axes) > 1 or at < 0 or before[len(before) - len(windows) - 1] != 1:
            left.append(found)
            continue
        taps, stride, padding, dilation = windows[at]
        first = dilation * (taps // 2) - padding  # the unit at the centre of the first window
        if stride != 1 or not 0 <= first <= before[axis] - out[axis]:
            left.append(found)
            continue
        width = vector(found.labels, axis)
        for edge in (width[:first], width[first + out[axis] :]):
            p.labels.protect(edge, WINDOW)
        slid.append(along(width[first : first + out[axis]], axis, out))
    return tuple(slid), tuple(left)
