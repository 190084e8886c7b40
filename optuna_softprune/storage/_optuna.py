"""The one place that uses what Optuna keeps private, with the reasons.

- What is kept of a running trial for the package itself is no result: shown by dashboards and in tables it hides them.
- A sampler and an objective cannot write *system* attributes of a running trial through the public API since Optuna
  5.0, but optuna-dashboard 0.21 reads constraints from the system attribute `constraints` alone.
- A sampler must write its claim on a point before parameters are suggested; user attributes that are set on the frozen
  trial that it is given are not stored. The objective finds there what the sampler knew, without asking the storage.
- `study.get_trials` of a study that a pruner filtered hides trials from samplers; the storage does not.
- A connection that an interruption left in the middle of a read is closed nowhere else.
- A study object is made anew for every worker and pruner; what identifies a study is its storage and its id there.
"""

from __future__ import annotations

import traceback
import weakref
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from optuna.storages import RDBStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

Kept = TypeVar("Kept")
CLAIM = "softprune:claim"
# Who evaluates a trial, and when that worker last showed that it lives, in seconds since 1970.
OWNER = "softprune:owner"
SEEN = "softprune:seen"
# Of the frozen trial that a sampler is given, never stored: the id of a complete trial of the same candidate, or None.
KNOWN = "softprune:known"


def mirror_constraints(trial: optuna.Trial, values: Sequence[float]) -> None:
    """Write the violations of a running trial where optuna-dashboard looks for them."""
    trial.study._storage.set_trial_system_attr(trial._trial_id, "constraints", list(values))


def write_owner(trial: optuna.Trial, owner: Mapping[str, str | int]) -> None:
    """Write who evaluates a running trial."""
    trial.study._storage.set_trial_system_attr(trial._trial_id, OWNER, dict(owner))


def write_seen(trial: optuna.Trial, now: float) -> None:
    """Write that the worker of a running trial lives."""
    trial.study._storage.set_trial_system_attr(trial._trial_id, SEEN, now)


def owner_of(trial: FrozenTrial) -> dict[str, str | int] | None:
    """Return who evaluates, or evaluated, a trial."""
    return trial.system_attrs.get(OWNER)


def seen_at(trial: FrozenTrial) -> float:
    """Return when the worker of a trial last showed that it lives; 0 if it did not."""
    return float(trial.system_attrs.get(SEEN, 0.0))


def close_connections(study: optuna.Study, interruption: BaseException) -> None:
    """Close what an interrupted call holds of a database: a read that was not finished locks SQLite for writers.

    Frames of SQLAlchemy, which hold such a read, are cut off the traceback. Without a pool of connections there is
    only one to a database in memory, which would be gone with it.
    """
    from sqlalchemy.pool import QueuePool

    before, at = None, interruption.__traceback__
    while at is not None:
        if before is not None and at.tb_frame.f_globals.get("__name__", "").startswith("sqlalchemy."):
            before.tb_next = None
            traceback.clear_frames(interruption.__traceback__)
            break
        before, at = at, at.tb_next
    storage = study._storage
    storage.remove_session()
    database = getattr(storage, "_backend", storage)
    if isinstance(database, RDBStorage) and isinstance(database.engine.pool, QueuePool):
        database.engine.dispose()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sampler writes into a running trial, so that other workers see it at once.

    Attributes:
        by: The sampler and its settings.
        point: Units removed of each group.
        role: What the point is for.
        iteration: The sampler's iteration, 0 if it has none.
    """

    by: str
    point: tuple[int, ...]
    role: str
    iteration: int


def write_claim(study: optuna.Study, trial: FrozenTrial, claim: Claim | None) -> None:
    """Write which point a running trial evaluates; None gives it up."""
    written = None if claim is None else asdict(claim)
    study._storage.set_trial_system_attr(trial._trial_id, CLAIM, written)
    trial.system_attrs = {**trial.system_attrs, CLAIM: written}


def claim_of(trial: FrozenTrial) -> Claim | None:
    """Return what a sampler has claimed for a trial."""
    held = trial.system_attrs.get(CLAIM)
    return None if held is None else Claim(**{**held, "point": tuple(held["point"])})


def as_run(trial: optuna.Trial) -> FrozenTrial:
    """Return a trial that runs here with what its sampler and its objective have written so far."""
    return trial._cached_frozen_trial


def note_known(trial: FrozenTrial, known: FrozenTrial | None) -> None:
    """Leave for the objective which complete trial of the study has the candidate that a sampler proposes."""
    trial.system_attrs = {**trial.system_attrs, KNOWN: None if known is None else known._trial_id}


def known_of(trial: optuna.Trial, look: Callable[[], FrozenTrial | None]) -> FrozenTrial | None:
    """Return the complete trial with the candidate of a trial: as its sampler left it, else what `look` finds."""
    attributes = as_run(trial).system_attrs
    if attributes.get(CLAIM) is not None:  # which is for a candidate that no trial has
        return None
    if KNOWN not in attributes:
        return look()
    known = attributes[KNOWN]
    return None if known is None else trial.study._storage.get_trial(known)


def enqueued_params(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return the parameters that a trial was enqueued with; they are its own only once they are suggested."""
    params: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return params


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
