"""Convolutions of small maps: taps of a kernel that meet nothing but padding are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.fx import Node

from optuna_softprune.graph import operation_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])


class Taps(NamedTuple):
    """The part of a kernel that meets data, and what padding is left.

    A kernel of 3 x 3 on a map of one pixel, padded by one, is its centre: a ninth of the weights.

    Attributes:
        first: First tap of each axis.
        size: Number of taps of each axis.
        padding: Of each axis, on both sides.
    """

    first: tuple[int, ...]
    size: tuple[int, ...]
    padding: tuple[int, ...]

    def of(self, kernel: Tensor) -> Tensor:
        """Return this part of a kernel (out, in, *taps)."""
        for axis, (first, size) in enumerate(zip(self.first, self.size, strict=True), start=2):
            kernel = kernel.narrow(axis, first, size)
        return kernel.contiguous()


def taps(node: Node) -> Taps | None:
    """Return which taps of a convolution meet data on maps of the example's size; None if all do."""
    if operation_name(node) not in CONVOLUTIONS or len(node.args) < 5 or not isinstance(node.args[4], (list, tuple)):
        return None
    x, weight = node.args[:2]
    assert isinstance(x, Node)
    assert isinstance(weight, Node)
    kernel, maps, out = weight.meta["val"].shape[2:], x.meta["val"].shape, node.meta["val"].shape
    dimensions = len(kernel)
    stride, padding, dilation = (_each(node.args[i : i + 1], dimensions) for i in (3, 4, 5))
    found = Taps(
        *zip(*map(_of_axis, maps[-dimensions:], out[-dimensions:], kernel, stride, padding, dilation), strict=True)
    )
    return None if found.size == tuple(kernel) else found


def _each(stated: Sequence[Any], dimensions: int) -> list[int]:
    """Return an argument for each axis; it is one if it is not stated."""
    values = list(stated[0]) if stated else [1]
    return values * dimensions if len(values) == 1 else values


def _of_axis(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, int, int]:
    """Return first tap, number of taps and padding of an axis."""
    places = range(-padding, out * stride - padding, stride)  # of tap 0
    used = [tap for tap in range(kernel) if any(0 <= place + tap * dilation < length for place in places)]
    if used:
        first, size, left = used[0], used[-1] - used[0] + 1, padding - used[0] * dilation
        if left >= 0 and (length + 2 * left - dilation * (size - 1) - 1) // stride + 1 == out:
            return first, size, left
    return 0, kernel, padding
