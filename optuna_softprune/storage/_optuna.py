"""The one place that uses what Optuna keeps private, with the reasons.

- A sampler and an objective cannot write *system* attributes of a running trial through the public API since Optuna
  5.0, but optuna-dashboard 0.21 reads constraints from the system attribute `constraints` alone.
- `study.get_trials` of a study that a pruner filtered hides trials from samplers; the storage does not.
- A study object is made anew for every worker and pruner; what identifies a study is its storage and its id there.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna
    from optuna.storages import BaseStorage

Kept = TypeVar("Kept")
POINT = "softprune:point"


def mirror_constraints(trial: optuna.Trial, values: Sequence[float]) -> None:
    """Write the violations of a running trial where optuna-dashboard looks for them."""
    trial.study._storage.set_trial_system_attr(trial._trial_id, "constraints", list(values))


def claim_point(study: optuna.Study, trial: optuna.trial.FrozenTrial, point: int) -> None:
    """Write which point of a grid a running trial evaluates, so that other workers see it at once."""
    study._storage.set_trial_system_attr(trial._trial_id, POINT, point)


def claimed_point(trial: optuna.trial.FrozenTrial) -> int | None:
    """Return the point that a trial has claimed."""
    return trial.system_attrs.get(POINT)


def all_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return all trials of a study as the storage has them; they must not be written to."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


class PerStudy(Generic[Kept]):
    """What a process keeps of each study to save time; it goes with the storage."""

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary[BaseStorage, dict[int, Kept]] = weakref.WeakKeyDictionary()

    def get(self, study: optuna.Study, make: Callable[[], Kept]) -> Kept:
        """Return what is kept of `study`, made when it is met first."""
        kept = self._kept.setdefault(study._storage, {})
        if study._study_id not in kept:
            kept[study._study_id] = make()
        return kept[study._study_id]
