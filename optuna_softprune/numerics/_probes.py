"""How far from a point a group is probed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]
Scheme = Literal["one-sided", "central"]


def probe_step(constraint: LatticeConstraint, h: float, smallest: FloatArray) -> FloatArray:
    """Return the fraction (G,) of each group nearest to `h` in whole units, and at least the `smallest` (G,)."""
    sizes = np.array(constraint.sizes)
    step: FloatArray = np.maximum(smallest, np.rint(h * sizes) / sizes)
    return step


def smallest_step(constraint: LatticeConstraint) -> FloatArray:
    """Return the largest gap (G,) between neighbouring levels of each group: a step that always moves."""
    gaps = [np.diff(levels).max(initial=0.0) for levels in levels_of(constraint)]
    return np.maximum(gaps, 1 / np.array(constraint.sizes))


def levels_of(constraint: LatticeConstraint) -> list[FloatArray]:
    """Return the coefficients (L,) that each group can have, ascending from 0."""
    sizes = np.array(constraint.sizes)
    walk = np.minimum(np.arange(sizes.max() + 1)[:, None] / sizes, constraint.highest)
    return [np.unique(each) for each in constraint.snap(walk).T]
