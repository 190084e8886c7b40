"""What batch norms normalise: means and variances of channels, and how those of a part of the data stand for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_ORDERS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}
_ORDERS[torch.ops.aten.batch_norm.default] = _ORDERS[torch.batch_norm]  # of traced parts
# No part of the data is taken to be further off than this, in standard deviations and as a factor of variances: a
# channel that hardly ever says anything may say nothing in a part.
FARTHEST_SHIFT, FARTHEST_FACTOR = 1.0, 2.0


def normalisation(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a call by name, or None if it is no batch norm."""
    return dict(zip(_ORDERS[func], args, strict=False)) | dict(kwargs) if func in _ORDERS else None


class Correction(NamedTuple):
    """What statistics of all data are to those of a part, in the dense network.

    A smaller network computes much of what the dense one does, so its statistics are off on the same part by much of
    the same (control variates).

    Attributes:
        shift: Difference of means in standard deviations of the part, shape (channels,).
        factor: Of variances, shape (channels,).
    """

    shift: Tensor
    factor: Tensor

    @classmethod
    def between(cls, part: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor]) -> Correction:
        """Return what takes the mean and variance of a part to those of the whole."""
        (mean, variance), (of_whole, its_variance) = part, whole
        varies = variance > 0
        shift = torch.where(varies, (of_whole - mean) / variance.sqrt(), 0.0)
        factor = torch.where(varies, its_variance / variance, 1.0)
        return cls(
            shift.clamp(-FARTHEST_SHIFT, FARTHEST_SHIFT),
            factor.clamp(1 / FARTHEST_FACTOR, FARTHEST_FACTOR),
        )


class Pooled:
    """Mean and variance of channels (axis 1) over all that was added.

    Args:
        correction: What they differ from the statistics of more data by; None: nothing.

    Attributes:
        count: How many values of a channel were added.
    """

    def __init__(self, correction: Correction | None = None) -> None:
        self._correction = correction
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add a batch; return its own mean and variance (channels,), corrected."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // x.shape[1]
        # A tenth to a third of the time that `var_mean` takes over these axes.
        mean = x.mean(axes, dtype=torch.promote_types(x.dtype, torch.float32)).double()
        squares = torch.linalg.vector_norm(x, dim=axes, dtype=torch.promote_types(x.dtype, torch.float32)).double() ** 2
        self.count += count
        self._sum = self._sum + count * mean
        self._squares = self._squares + squares
        mean, variance = self._corrected(mean, squares / count)
        return mean.to(x.dtype), variance.to(x.dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance (channels,), corrected, in float64."""
        return self._corrected(torch.as_tensor(self._sum) / self.count, torch.as_tensor(self._squares) / self.count)

    def _corrected(self, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        variance = (squares - mean**2).clamp(min=0)
        if self._correction is None:
            return mean, variance
        shift, factor = (each.to(mean.device) for each in self._correction)
        return mean + shift * variance.sqrt(), factor * variance
