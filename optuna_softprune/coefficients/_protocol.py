"""What samplers know of a constraint; nothing of it is torch."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@runtime_checkable
class LatticeConstraint(Protocol):
    """A constraint on points of a lattice: for each of G groups the fraction of its units that is removed.

    Points are float arrays (..., G) in the order of `names`.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups, which are the names of the trials' parameters."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each group."""
        ...

    @property
    def highest(self) -> FloatArray:
        """Shape (G,): the largest coefficient of each group."""
        ...

    def violation(self, c: FloatArray) -> Any:
        """Return how far points (..., G) are outside; at most 0 is feasible. Shape (...)."""
        ...

    def residual(self, c: FloatArray) -> float:
        """Return what the constraint wants to be 0, at a point (G,) between lattice points."""
        ...

    def gradient(self, c: FloatArray) -> FloatArray:
        """Return the gradient (G,) of `residual` at a point (G,) between lattice points."""
        ...

    def snap(self, c: FloatArray) -> FloatArray:
        """Return the nearest lattice points (..., G), halves up, of points (..., G)."""
        ...

    def project(self, c: FloatArray) -> FloatArray:
        """Return a near feasible lattice point (G,) for a point (G,); the same for the same point."""
        ...
