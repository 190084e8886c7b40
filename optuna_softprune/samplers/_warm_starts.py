"""Where to begin at one target, by what searches at others have found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optuna_softprune._errors import shorten
from optuna_softprune.numerics import least_sum
from optuna_softprune.samplers._additive import measured_alone
from optuna_softprune.samplers._arguments import check_constraint

if TYPE_CHECKING:
    from collections.abc import Iterable

    import optuna

    from optuna_softprune.coefficients import LatticeConstraint


def warm_starts(studies: Iterable[optuna.Study], constraint: LatticeConstraint) -> list[dict[str, float]]:
    """Return feasible candidates to begin with, by what studies of other targets have found, each once.

    The best feasible candidate of each study, projected onto the constraint, and the additive model's answer where a
    study has a sweep (`additive_sweep`). No metric is called. To be enqueued, for any sampler:
    `study.enqueue_trial(c, skip_if_exists=True)`. Studies that have nothing yet are passed over.

    Args:
        studies: Studies of the same groups and metric, at whatever targets.
        constraint: The constraint that the candidates meet.

    Raises:
        ValueError: If a study has other groups or several objectives.
    """
    check_constraint(constraint)
    found: dict[tuple[float, ...], dict[str, float]] = {}
    for study in studies:
        for c in (_moved(study, constraint), _additive(study, constraint)):
            if c is not None:
                found[tuple(c.values())] = c
    return list(found.values())


def _moved(study: optuna.Study, constraint: LatticeConstraint) -> dict[str, float] | None:
    """Return the best feasible candidate of a study, projected, or None if it has none."""
    if len(study.directions) > 1:
        raise ValueError(
            f"Expected studies with one objective, but {study.study_name!r} has {len(study.directions)}: none of its "
            "candidates is the best."
        )
    try:
        params = study.best_trial.params
    except ValueError:  # no trial is complete and feasible
        return None
    missing = [name for name in constraint.names if name not in params]
    if missing:
        raise ValueError(
            f"Expected studies of the constraint's groups, but {study.study_name!r} has no coefficient of "
            f"{shorten(missing)}."
        )
    c = constraint.project(np.clip([params[name] for name in constraint.names], 0, constraint.highest))
    return dict(zip(constraint.names, c.tolist(), strict=True))


def _additive(study: optuna.Study, constraint: LatticeConstraint) -> dict[str, float] | None:
    """Return the additive model's answer, or None if a study has no sweep."""
    curves = measured_alone(study, constraint)
    if any(len(curve.losses) == 1 for curve in curves):
        return None
    return dict(zip(constraint.names, least_sum(constraint, curves).tolist(), strict=True))
