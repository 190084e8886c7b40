"""Samplers that search along the networks of one size, from one start after another."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from optuna_softprune.numerics import Evaluation, Report, Search, with_restarts
from optuna_softprune.samplers._replay import ReplaySampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from optuna_softprune.coefficients import LatticeConstraint


class RestartedSampler(ReplaySampler):
    """Runs a search under a constraint from one start after another."""

    def __init__(self, constraint: LatticeConstraint, seed: int, **settings: Any) -> None:
        super().__init__(constraint, seed, **settings)
        self.constraint = constraint

    @abstractmethod
    def _run(self, x: NDArray[np.float64], at_x: Evaluation, known: Mapping[bytes, Evaluation]) -> Search[Report]:
        """Search from a feasible point x (G,); what is `known` of all points, by their bytes, grows meanwhile."""

    def _search(self, initial: list[NDArray[np.float64]]) -> Search[None]:
        return with_restarts(self.constraint, initial, self._run, self._seed)
