"""A search of a study: it begins with some candidates, and where it is kept it goes on after a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna

from optuna_softprune import open_storage, recover, remaining_trials

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from optuna_softprune import PruningObjective

HEURISTICS = ("uniform", "local norm", "global norm")


def searched(
    objective: PruningObjective,
    sampler: optuna.samplers.BaseSampler | None,
    first: Iterable[dict[str, float]],
    calls: int | None,
    name: str | None = None,
    journal: Path | None = None,
) -> optuna.Study:
    """Return a study that maximises a metric.

    Args:
        objective: What is searched.
        sampler: What proposes candidates behind the first.
        first: Candidates to begin with.
        calls: How often the metric is called; None: until the sampler ends.
        name: Under which the study is kept.
        journal: Where; None: nowhere.
    """
    if journal is not None:
        journal.parent.mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=None if journal is None else open_storage(journal),
        load_if_exists=True,
        direction="maximize",
        sampler=sampler,
    )
    recover(study)
    for c in first:
        study.enqueue_trial(c, skip_if_exists=True)
    study.optimize(objective, n_trials=None if calls is None else remaining_trials(study, calls))
    return study
