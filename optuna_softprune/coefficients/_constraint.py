"""The sparsity that a pruned network must have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from optuna_softprune._errors import InfeasibleTargetError, kind_of
from optuna_softprune.coefficients._feasible import feasible_points
from optuna_softprune.coefficients._projection import Band, closest, is_small, project

if TYPE_CHECKING:
    from optuna_softprune.coefficients._counts import Count
    from optuna_softprune.coefficients._lattice import Lattice

FloatArray = NDArray[np.float64]
Of = Literal["parameters", "macs"]
# What sparsity is counted over -> how it is called where people read.
COUNTED = {"parameters": "parameters", "macs": "MACs"}


@runtime_checkable
class CountedSpace(Protocol):
    """What a constraint reads of a search space."""

    @property
    def lattice(self) -> Lattice:
        """The coefficients that there are."""
        ...

    def count(self, of: Of) -> Count:
        """Return the formula of parameters or multiply-accumulates."""
        ...


class SparsityConstraint:
    """|sparsity - target| <= tolerance.

    It keeps the lattice and the counting formula of the space, no network: it can be pickled and compared.

    Args:
        space: The search space.
        target: The sparsity to reach, above 0 and at most what `space` can reach.
        tolerance: How far off it a network may be, above 0. One unit of the smallest groups should fit in.
        of: Whether sparsity is over parameters or multiply-accumulates.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If an argument is out of its range.
        InfeasibleTargetError: If no network within the tolerance is found; the message names the closest.
    """

    def __init__(
        self,
        space: CountedSpace,
        target: float,
        *,
        tolerance: float = 0.005,
        of: Of = "parameters",
    ) -> None:
        if not isinstance(space, CountedSpace):
            raise TypeError(f"Expected `space` to be a `PruningSpace`, but got {kind_of(space)}.")
        for name, value in (("target", target), ("tolerance", tolerance)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Expected `{name}` to be a float, but got {value!r}.")
        self.target, self.tolerance, self.of = target, tolerance, of
        self._count, self._lattice = space.count(of), space.lattice
        self._dense = int(self._count(self._lattice.sizes))
        low, high = self.attainable
        if not low < target <= high:
            raise ValueError(
                f"Expected `target` to be in (0, {high:.4g}], but got {target!r}: no more than {high:.4g} of the "
                f"{COUNTED[of]} can be removed. `print(space)` says what is protected and why."
            )
        if not 0 < tolerance < 1:
            raise ValueError(f"Expected `tolerance` to be in (0, 1), but got {tolerance!r}.")
        self.project(target * self.highest)

    def __repr__(self) -> str:
        return f"SparsityConstraint(target={self.target}, tolerance={self.tolerance}, of={self.of!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return self._lattice.names

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each group."""
        sizes: list[int] = self._lattice.sizes.tolist()
        return tuple(sizes)

    @property
    def highest(self) -> FloatArray:
        """Shape (G,): the largest coefficient of each group."""
        return self._lattice.highest

    @property
    def attainable(self) -> tuple[float, float]:
        """The lowest and the highest sparsity that the space can reach."""
        return 0.0, float(self._sparsity(self._lattice.removed(self.highest)))

    def violation(self, c: Any) -> Any:
        """Return |sparsity - target| - tolerance of `c`, a mapping or an array (..., G); at most 0 is feasible."""
        removed = self._lattice.removed(self._lattice.array(c))
        return abs(self._sparsity(removed) - self.target) - self.tolerance

    def _sparsity(self, removed: NDArray[Any]) -> FloatArray:
        return self._sparsity_of(self._count(self._lattice.sizes - removed))

    def _sparsity_of(self, count: NDArray[Any]) -> FloatArray:
        sparsity: FloatArray = 1 - count / self._dense
        return sparsity

    def excess(self, removed: NDArray[Any]) -> FloatArray:
        """Return target - sparsity (...) for units removed (..., G); it falls as they rise."""
        return self.target - self._sparsity(removed)

    def _excess_along(self, removed: NDArray[np.int64], levels: NDArray[np.int64]) -> FloatArray:
        """Return the excess (N, G, L) when of units removed (N, G) one group alone changes, to `levels` (G, L)."""
        sizes = self._lattice.sizes
        return self.target - self._sparsity_of(self._count.along(sizes - removed, sizes[:, None] - levels))

    def residual(self, c: Any) -> float:
        """Return sparsity - target of `c`, a mapping or an array (G,), with widths as real numbers."""
        return float(self._sparsity(self._lattice.sizes * self._lattice.array(c))) - self.target

    def gradient(self, c: Any) -> FloatArray:
        """Return the gradient (G,) of sparsity at `c`, a mapping or an array (G,), with widths as real numbers."""
        sizes = self._lattice.sizes
        kept = sizes * (1 - self._lattice.array(c))
        gradient: FloatArray = self._count.gradient(kept) * sizes / self._dense
        return gradient

    @cached_property
    def _feasible(self) -> NDArray[np.int64]:
        """Shape (N, G): all feasible points."""
        return feasible_points(self._lattice.levels, self.excess, self.tolerance)

    def snap(self, c: Any) -> Any:
        """Return the nearest lattice points, halves up, of `c`, a mapping or an array (..., G)."""
        return self._lattice.snap(c)

    def project(self, c: Any) -> Any:
        """Return a near lattice point within the tolerance, for a mapping a mapping, for an array (G,) an array.

        The truly nearest, in the Euclidean distance of coefficients, where the nearest of all lattice points is
        feasible and where the lattice has at most 200,000 points; else one that changing one or two groups does not
        improve. The same for the same `c`.

        Raises:
            InfeasibleTargetError: If none is found; the message names the closest sparsity.
        """
        feasible = (lambda: self._feasible) if is_small(self._lattice) else None
        band = Band(excess=self.excess, along=self._excess_along, slope=self.gradient, width=self.tolerance)
        removed = project(self._lattice, self._lattice.array(c), band, feasible)
        if removed is None:
            nearest = self._sparsity(closest(self._lattice, band))
            raise InfeasibleTargetError(
                f"Expected a network within `tolerance={self.tolerance}` of `target={self.target}`, but the closest "
                f"found has sparsity {nearest:.6g} of the {COUNTED[self.of]}: raise the tolerance, or move the target "
                "there."
            )
        projected: FloatArray = removed / self._lattice.sizes
        return self._lattice.named(projected) if isinstance(c, Mapping) else projected

    def describe(self) -> dict[str, Any]:
        """Return what makes it this constraint, for the study."""
        return {"target": self.target, "tolerance": self.tolerance, "of": self.of}
