"""Operations that sum over channels: how their weight is a matrix, and which positions of their input they read.

| symbol | meaning | shape |
| --- | --- | --- |
| g | groups of a convolution; 1 for all else | scalar |
| d | channels that one of these groups reads | scalar |
| X | what is read: of each channel its value at every position | (g, d, positions) |
| W | the weight as matrices over channels; the taps of a kernel are rows of their own | (g, rows, d) |
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_TRANSPOSED: dict[Any, int] = {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}
_PRODUCTS = frozenset([torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__])
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_NAMES_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """How the weight of an operation that sums over channels lies in memory.

    Attributes:
        weight: Qualified name of the weight.
        bias: Qualified name of the bias; None if there is none.
        axis: The weight's axis over what is read: 1, or 0 of transposed convolutions and of `x @ weight`.
        groups: g, groups of a convolution.
        whole: Whether every output sees all taps of the kernel, so that a constant input is a constant output.
    """

    weight: str
    bias: str | None
    axis: int
    groups: int
    whole: bool

    def rows(self, weight: Tensor) -> Tensor:
        """Return a weight, whole or of fewer inputs and outputs, as (outputs, m, d): m rows of W for each output."""
        if self.axis == 1:
            return weight.flatten(2).mT if weight.dim() > 2 else weight[:, None]
        by_group = weight.reshape(self.groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
        return by_group.permute(2, 0, 3, 1).flatten(1, 2)

    def matrices(self, rows: Tensor) -> Tensor:
        """Return rows (outputs, m, d) as W (g, rows, d)."""
        if self.axis == 1:
            return rows.reshape(self.groups, -1, rows.shape[2])
        outputs, m, width = rows.shape
        return rows.reshape(outputs, self.groups, m // self.groups, width).transpose(0, 1).flatten(1, 2)

    def tensor(self, matrices: Tensor, shape: Sequence[int]) -> Tensor:
        """Return matrices (g, rows, d) as a weight of `shape`."""
        if self.axis == 0:
            return matrices.mT.reshape(*shape)
        taps = math.prod(shape[2:])
        by_group = matrices.reshape(self.groups, -1, taps, matrices.shape[2])
        return by_group.transpose(2, 3).reshape(*shape)


def operands(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a call by name, or None if it is no contraction."""
    if func in _PRODUCTS:
        given = [*args, *kwargs.values()]
        return {"input": given[0], "weight": given[1]} if len(given) > 1 and isinstance(given[1], Tensor) else None
    if func is F.linear or func in _CONVOLUTIONS:
        return dict(zip(_NAMES, args, strict=False)) | dict(kwargs)
    if func in _TRANSPOSED:
        return dict(zip(_NAMES_TRANSPOSED, args, strict=False)) | dict(kwargs)
    return None


def contraction(func: Any, given: Mapping[str, Any], weight: str, bias: str | None) -> Contraction | None:
    """Return how a call sums over channels; None if its weight is no matrix over them."""
    if func in _PRODUCTS and given["weight"].dim() != 2:
        return None
    convolution = func in _CONVOLUTIONS
    return Contraction(
        weight=weight,
        bias=bias,
        axis=0 if func in _TRANSPOSED or func in _PRODUCTS else 1,
        groups=given.get("groups", 1),
        whole=not (func in _TRANSPOSED or (convolution and any(_before(func, given)))),
    )


def inputs(func: Any, given: Mapping[str, Any], groups: int, out: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return X (g, d, samples, positions) of a call, a view, and how often each position is read (positions,).

    Positions of a convolution that meet several taps count for each, so that the mean square of a channel is what a
    sum of all taps sees of it. None: each is read equally often.
    """
    x: Tensor = given["input"].detach()
    dimensions = _CONVOLUTIONS.get(func, _TRANSPOSED.get(func, 0))
    channel = x.dim() - 1 - dimensions
    x = x.unsqueeze(0) if channel == 0 else x.flatten(0, channel - 1)  # (samples, channels, *positions)
    x = x.flatten(2) if dimensions else x[:, :, None]
    samples, channels, positions = x.shape
    x = x.view(samples, groups, channels // groups, positions).permute(1, 2, 0, 3)
    return x, _read(func, given, out) if dimensions else None


def _read(func: Any, given: Mapping[str, Any], out: Tensor) -> Tensor | None:
    """Return how many taps meet each position (positions,) of a convolution's input; None if they are equally many."""
    x, taps = given["input"], given["weight"].shape[2:]
    dimensions = len(taps)
    stride, dilation = (_each(given.get(name, 1), dimensions) for name in ("stride", "dilation"))
    lengths = x.shape[-dimensions:], taps, out.shape[-dimensions:]
    settings = zip(*lengths, stride, _before(func, given), dilation, strict=True)
    return _of_axes(tuple(settings), func in _TRANSPOSED)


@functools.lru_cache(256)  # batches are read alike
def _of_axes(settings: tuple[tuple[int, ...], ...], transposed: bool) -> Tensor | None:
    axes = [_reads(*each, transposed=transposed) for each in settings]
    if all(bool((counts == counts[0]).all()) for counts in axes):
        return None
    read = axes[0]
    for counts in axes[1:]:
        read = (read[:, None] * counts).flatten()
    return read


def _each(stated: Any, dimensions: int) -> list[int]:
    values = list(stated) if isinstance(stated, (list, tuple)) else [stated]
    return values * dimensions if len(values) == 1 else values


def _before(func: Any, given: Mapping[str, Any]) -> list[int]:
    """Return the padding in front of each axis."""
    padding, dimensions = given.get("padding", 0), _CONVOLUTIONS.get(func, _TRANSPOSED.get(func, 0))
    if padding == "valid":
        padding = 0
    if padding == "same":
        dilation = _each(given.get("dilation", 1), dimensions)
        return [(taps - 1) * step // 2 for taps, step in zip(given["weight"].shape[2:], dilation, strict=True)]
    return _each(padding, dimensions)


def _reads(length: int, taps: int, out: int, stride: int, padding: int, dilation: int, *, transposed: bool) -> Tensor:
    """Return how many taps of all outputs meet each position (length,) of an axis, in float64."""
    if transposed:
        places = torch.arange(length)[:, None] * stride - padding + torch.arange(taps) * dilation
        return ((places >= 0) & (places < out)).sum(1).double()
    places = (torch.arange(out)[:, None] * stride - padding + torch.arange(taps) * dilation).flatten()
    return torch.bincount(places[(places >= 0) & (places < length)], minlength=length).double()
