"""A search that goes on where it was: on networks of which one metric call takes a second, killed ones are dear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna

from optuna_softprune import open_storage, recover, remaining_trials
from studies.training import WORK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from optuna_softprune import PruningObjective


def searched(
    objective: PruningObjective,
    sampler: optuna.samplers.BaseSampler | None,
    first: Iterable[dict[str, float]],
    calls: int,
    name: str | None,
) -> optuna.Study:
    """Return a study that maximises a metric.

    Args:
        objective: What is searched.
        sampler: What proposes candidates behind the first.
        first: Candidates to begin with.
        calls: How often the metric is called.
        name: Under which the study is kept; None: it is not.
    """
    WORK.mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=None if name is None else open_storage(WORK / f"{name}.journal"),
        load_if_exists=True,
        direction="maximize",
        sampler=sampler,
    )
    recover(study)
    for c in first:
        study.enqueue_trial(c, skip_if_exists=True)
    study.optimize(objective, n_trials=remaining_trials(study, calls))
    return study
