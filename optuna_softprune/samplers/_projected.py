"""Any Optuna sampler, with every candidate feasible before it is recorded."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler

from optuna_softprune._errors import kind_of
from optuna_softprune.samplers._arguments import check_constraint, units_of
from optuna_softprune.storage import History, PerStudy, enqueued_params, note_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    from optuna.trial import FrozenTrial, TrialState

    from optuna_softprune.coefficients import LatticeConstraint

# Draws before a candidate that the study already has is proposed again.
ATTEMPTS = 5


class ProjectedSampler(BaseSampler):
    """Samples with `base` and moves what it gives to the nearest feasible networks.

    The coefficients of all groups are drawn together, from the first trial on: where `base` draws parameters one by one
    (the start-up trials of TPE), this is done for it. A candidate that the study already has is drawn again, a few
    times: samplers with a seed repeat their draws when a search is resumed. Parameters of the user's own are left to
    `base`.

    Args:
        base: TPE, CMA-ES, GP, random or any other sampler.
        constraint: What must hold; the same object that the objective has.
    """

    def __init__(self, base: BaseSampler, constraint: LatticeConstraint) -> None:
        if not isinstance(base, BaseSampler):
            raise TypeError(f"Expected `base` to be an Optuna sampler, but got {kind_of(base)}.")
        check_constraint(constraint)
        self.base = base
        self.constraint = constraint
        self._histories: PerStudy[History] = PerStudy()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, "constraint": self.constraint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"ProjectedSampler({self.base}, {self.constraint!r})"

    def _groups(self) -> dict[str, FloatDistribution]:
        highest = self.constraint.highest.tolist()
        return {name: FloatDistribution(0.0, high) for name, high in zip(self.constraint.names, highest, strict=True)}

    def reseed_rng(self) -> None:
        """Reseed the base sampler."""
        self.base.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what the base sampler samples together, and the coefficients of all groups."""
        return {**self.base.infer_relative_search_space(study, trial), **self._groups()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw with the base sampler and project the coefficients."""
        groups = self._groups()
        if not all(search_space.get(name) == found for name, found in groups.items()):
            return self.base.sample_relative(study, trial, search_space)  # not the search that the constraint is of
        with self._lock:
            history = self._history(study)
            history.read(study)
        for _ in range(ATTEMPTS):
            drawn = dict(self.base.sample_relative(study, trial, search_space))
            for name, distribution in groups.items():
                if name not in drawn:
                    drawn[name] = self.base.sample_independent(study, trial, name, distribution)
            point = self.constraint.project(np.array([drawn[name] for name in groups]))
            drawn.update(zip(groups, point.tolist(), strict=True))
            units = units_of(self.constraint, point)
            if not history.known(units):
                break
        if not enqueued_params(trial):  # which would take the place of what was drawn
            note_known(trial, history.complete.get(units))
        return drawn

    def _history(self, study: optuna.Study) -> History:
        return self._histories.get(study, lambda: History(self.constraint.names, partial(units_of, self.constraint)))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter of the user's own with the base sampler."""
        return self.base.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell the base sampler that a trial begins."""
        self.base.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the base sampler that a trial ends."""
        self.base.after_trial(study, trial, state, values)
