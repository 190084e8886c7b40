"""Normalisations at full size whose statistics are those of what is kept.

Each takes the operation itself, masks (axis -> which of its indices are kept, shaped to broadcast), and what the
operation takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Masks = Mapping[int, Tensor]


def _stays(masks: Masks, axes: Sequence[int], rank: int) -> Tensor:
    """Return which elements are kept along all of `axes`, shaped to broadcast."""
    stays = torch.ones((1,) * rank, dtype=torch.bool)
    for axis in axes:
        if axis in masks:
            stays = stays & masks[axis]
    return stays


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
    operation: Any,
    masks: Masks,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    axes = list(range(x.dim() - len(normalized_shape), x.dim()))
    y = _normalised(x, _stays(masks, axes, x.dim()), axes, eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(
    operation: Any,
    masks: Masks,
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
    return _per_channel(y, weight, bias)


def _per_channel(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scale and shift each channel (axis 1)."""
    view = (1, -1, *[1] * (y.dim() - 2))
    y = y if weight is None else y * weight.view(view)
    return y if bias is None else y + bias.view(view)


def _rms_norm(
    operation: Any,
    masks: Masks,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = list(range(x.dim() - len(normalized_shape), x.dim()))
    stays = _stays(masks, axes, x.dim()).expand(x.shape)
    squares = torch.where(stays, x * x, torch.zeros((), dtype=x.dtype))
    mean = squares.sum(axes, keepdim=True) / stays.sum(axes, keepdim=True)
    y = x / (mean + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt()
    return y if weight is None else y * weight


def _of_channels(examples: Sequence[int]) -> Callable[..., Any]:
    """Return the norm of channels (axis 1) whose statistics are over positions, and over these axes of examples."""

    def norm(
        operation: Any,
        masks: Masks,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        of_input: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Any:
        axes = [*examples, *range(2, x.dim())]
        if not of_input or not masks.keys() & axes:
            return operation(x, weight, bias, mean, var, of_input, momentum, eps, cudnn_enabled)
        return _per_channel(_normalised(x, _stays(masks, axes, x.dim()), axes, eps), weight, bias)

    return norm


NORMS: dict[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _of_channels([0]),
    "instance_norm": _of_channels([]),
}
