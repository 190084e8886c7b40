"""Second moments of what contractions read.

| symbol | meaning | shape |
| --- | --- | --- |
| X | what a contraction reads: of each channel its value at every position of every sample | (g, d, positions) |
| m | means of channels | (g, d) |
| s | a shift near the means, of what is read first | (g, d) |
| C | sums of products of X - s over n positions; those that several taps read count for each | (g, d, d) |
| G | second moments, C / n + m m^T - (m - s)(m - s)^T | (g, d, d) |
| S | G, or G - m m^T where a bias or a batch norm makes up for means | (g, d, d) |
| H | S + ridge * mean(diag S) I | (g, d, d) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from optuna_softprune.calibration._contraction import Contraction

# Of the mean variance of what is read: what least squares is damped by.
RIDGE = 1e-3
# Variances of this part of the mean squares are rounding.
ROUNDING = 1e-12
# Rows of C that are made, and mirrored, together: what lies above the diagonal of so many is made in vain.
ROWS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What one contraction reads on the calibration data, over all positions; float64, on the CPU.

    Attributes:
        contraction: The operation.
        positions: How many positions were read.
        weight: n, how often all of them together.
        mean: m, shape (g, d).
        shift: s, shape (g, d).
        energy: The diagonal of G, shape (g, d).
        products: C up to its diagonal, `ROWS` rows in each (g, rows, columns), in the network's precision where it was
            made at once; none if they would have taken more memory than there is.
        normalised: Whether a batch norm, which takes means off, is the first to read what the contraction makes.
    """

    contraction: Contraction
    positions: int
    weight: float
    mean: Tensor
    shift: Tensor
    energy: Tensor
    products: tuple[Tensor, ...]
    normalised: bool

    @property
    def shifts_bias(self) -> bool:
        """Whether a bias has to make up for means, and can: it is there, and all outputs see it alike."""
        return self.contraction.bias is not None and self.contraction.whole and not self.normalised

    @property
    def second(self) -> Tensor | None:
        """G (g, d, d)."""
        return self._about(torch.zeros_like(self.mean))

    def damped(self, ridge: float) -> Tensor | None:
        """Return H (g, d, d) = S + ridge * mean(diag S) I; None if there are no second moments, or nothing varies."""
        point = self.mean if self.shifts_bias or self.normalised else torch.zeros_like(self.mean)
        spread = self._about(point)
        if spread is None:
            return None
        diagonal = spread.diagonal(dim1=1, dim2=2)
        sizes = diagonal.mean(1)
        largest = sizes.max()
        if largest <= ROUNDING * self.energy.max():
            return None
        sizes = torch.where(sizes > ROUNDING * largest, sizes, largest)  # of a group in which nothing varies
        diagonal += ridge * sizes[:, None]
        return spread

    def _about(self, point: Tensor) -> Tensor | None:
        """Return second moments (g, d, d) about a point (g, d): C / n + (m - p)(m - p)^T - (m - s)(m - s)^T."""
        if not self.products:
            return None
        groups, width = self.mean.shape
        off, first = self.mean - point, self.mean - self.shift
        left, right = torch.stack([off, first], 2), torch.stack([off, -first], 1)
        found = self.mean.new_empty(groups, width, width)
        for start, products in zip(range(0, width, ROWS), self.products, strict=True):
            end = start + products.shape[1]
            rows = torch.baddbmm(products.double(), left[:, start:end], right[:, :, :end], beta=1 / self.weight)
            found[:, start:end, :start] = rows[:, :, :start]
            found[:, :start, start:end] = rows[:, :, :start].mT
            corner = rows[:, :, start:].tril()
            found[:, start:end, start:end] = corner + corner.tril(-1).mT
        return found


def expect_ridge(ridge: float) -> None:
    """Raise a ValueError unless least squares can be damped by `ridge`."""
    if not isinstance(ridge, (int, float)) or not 0 < ridge <= 1:
        raise ValueError(
            f"Expected `ridge` to be in (0, 1], but got {ridge!r}: it is a part of the mean square of what a layer "
            "reads, 1e-4 to 1e-2 as a rule."
        )
