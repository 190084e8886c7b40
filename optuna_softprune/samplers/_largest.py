"""The largest sparsity at which requirements on metrics are met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_softprune._errors import InfeasibleTargetError
from optuna_softprune._keys import CONSTRAINT, OBJECTIVE
from optuna_softprune.coefficients import COUNTED, Of, SparsityConstraint
from optuna_softprune.numerics import Search, enlarge
from optuna_softprune.samplers._arguments import check_choice, check_fraction
from optuna_softprune.samplers._replay import ReplaySampler

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from optuna_softprune.coefficients import CountedSpace, LatticeConstraint


class LargestSparsitySampler(ReplaySampler):
    """Looks for the smallest network that still meets the objective's requirements, in one study.

    Sparsity is bisected first, along two ways from the dense network; six halvings take a dozen trials at most. From
    there on trials remove as much more as what is known of the metrics promises, the smallest network so far being
    where the next ones begin. When no network with one unit more removed, of whatever group, meets the requirements,
    and another round of wide probes has not found one either, the study stops by itself. What comes next is a function
    of the settings and the study's trials alone: a search can be killed, resumed, begun by other samplers (every trial
    before it is known, and the sparsest that meets the requirements is where it begins) and shared by workers, which
    evaluate four trials side by side.

    The objective is to have `objectives=("sparsity",)` with `directions=("maximize",)`, or "parameters" or "macs" with
    "minimize", at least one `Requirement`, and no constraint: `study.best_trial` and `objective.best_model` then mean
    the smallest network that meets the requirements. A noisy metric meets them by luck sometimes: look again at the
    best few trials, with more data.

    Args:
        space: The search space.
        of: What is to be few, "parameters" or "macs".
        seed: Of the directions of the probes.
        step: Distance of the first probes, a fraction of each group, in (0, 1].
        rate: How far a coefficient may move in a first step, in (0, 1].

    Raises:
        ValueError: If a setting is out of its range; in the first trial, if the objective is another one.
    """

    _stops = True

    def __init__(
        self, space: CountedSpace, *, of: Of = "parameters", seed: int = 0, step: float = 0.1, rate: float = 0.2
    ) -> None:
        check_choice("of", of, tuple(COUNTED))
        check_fraction("step", step, "the distance of the first probes, a fraction of each group")
        check_fraction("rate", rate, "how far a coefficient may move in a step")
        self._sparsities = _Sparsities(space, of)
        super().__init__(self._sparsities.everything, seed, of=of, step=step, rate=rate)
        self._of, self._step, self._rate = of, step, rate

    @property
    def _kind(self) -> str:
        return "largest_sparsity"

    def _search(self, initial: list[NDArray[np.float64]]) -> Search[None]:
        return enlarge(self._sparsities, initial, step=self._step, rate=self._rate, seed=self._seed)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Claim a point and return its coefficients.

        Raises:
            ValueError: If the objective of the study is another one.
            TrialPruned: If no point is left; the study is stopped.
        """
        self._check_objective(study)
        return super().sample_relative(study, trial, search_space)

    def _check_objective(self, study: optuna.Study) -> None:
        """Raise a ValueError unless a study of a `PruningObjective` asks for a small network under requirements."""
        held = study.user_attrs
        objective: dict[str, Any] | None = held.get(OBJECTIVE)
        if objective is None:
            return
        wanted = {"parameters": ("sparsity", "parameters"), "macs": ("macs",)}[self._of]
        if objective["names"][0] not in wanted:
            raise ValueError(
                f"Expected an objective of {' or '.join(map(repr, wanted))} for a sampler with `of={self._of!r}`, but "
                f"got {objective['names']}: `PruningObjective(space, metric, objectives=({wanted[-1]!r},), "
                'directions=("minimize",), requirements=...)`.'
            )
        if not objective["requirements"]:
            raise ValueError(
                "Expected an objective with requirements, but got none: without them nothing but the smallest network "
                'of all is looked for. Give it `requirements=(Requirement("metric", at_least=...),)`.'
            )
        if held.get(CONSTRAINT) is not None:
            raise ValueError(
                f"Expected an objective without a constraint, but got {held[CONSTRAINT]}: the sampler looks for the "
                "sparsity itself."
            )


class _Sparsities:
    """All points of a search space, by their sparsity."""

    def __init__(self, space: CountedSpace, of: Of) -> None:
        count, lattice = space.count(of), space.lattice
        removed = lattice.removed(lattice.highest)
        self._space, self._of = space, of
        self._highest = 1 - int(count(lattice.sizes - removed)) / int(count(lattice.sizes))
        self.everything = SparsityConstraint(space, self._highest / 2, tolerance=self._highest / 2 + 1e-9, of=of)

    def between(self, low: float, high: float) -> LatticeConstraint | None:
        """Return the constraint that sparsity be between two bounds, or None if no network is found to be."""
        target, tolerance = min((low + high) / 2, self._highest), (high - low) / 2
        if tolerance <= 0:
            return None
        try:
            return SparsityConstraint(self._space, target, tolerance=tolerance, of=self._of)
        except InfeasibleTargetError:
            return None
