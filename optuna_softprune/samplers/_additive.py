"""A start for any target from trials that prune one group alone: the additive model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from optuna.study import StudyDirection

from optuna_softprune._errors import shorten
from optuna_softprune.numerics import curves_alone, least_sum
from optuna_softprune.samplers._arguments import check_constraint, check_integer, units_of
from optuna_softprune.storage import History

if TYPE_CHECKING:
    import optuna

    from optuna_softprune.coefficients import LatticeConstraint
    from optuna_softprune.numerics import Curve


def additive_sweep(constraint: LatticeConstraint, *, levels: int = 4) -> list[dict[str, float]]:
    """Return the dense network and networks that are pruned in one group alone: at most G * levels + 1 candidates.

    To be enqueued (`study.enqueue_trial(c, skip_if_exists=True)`) and evaluated before `additive_start`. They do not
    meet the constraint. They come in the order of the groups, the last group first, so that neighbours have most of
    their forward passes in common.

    Args:
        constraint: The constraint of the search; its target does not matter here.
        levels: At how many evenly spread coefficients each group is measured, at least 1.
    """
    check_constraint(constraint)
    check_integer("levels", levels, 1)
    shares = np.arange(1, levels + 1)[:, None, None] / levels
    alone = (
        constraint.snap(shares * np.diag(constraint.highest)[::-1]).swapaxes(0, 1).reshape(-1, len(constraint.names))
    )
    points = {point.tobytes(): point for point in [np.zeros(len(constraint.names)), *alone]}
    return [dict(zip(constraint.names, point.tolist(), strict=True)) for point in points.values()]


def additive_start(study: optuna.Study, constraint: LatticeConstraint) -> dict[str, float]:
    """Return the feasible candidate that a sweep holds for the best, as if groups did not act on each other.

    Every complete trial that prunes one group alone is a point of that group's curve, wherever it came from; the
    candidate has the least sum of the curves under the constraint. No metric is called. A guess to begin with, for any
    sampler: `study.enqueue_trial(...)`. One sweep serves every target: `study` may be that of another target of the
    same space and metric.

    Args:
        study: A study in which the candidates of `additive_sweep` are complete.
        constraint: The constraint that the candidate meets.

    Raises:
        ValueError: If the dense network or a group has no complete trial.
    """
    check_constraint(constraint)
    curves = measured_alone(study, constraint)
    missing = [name for name, curve in zip(constraint.names, curves, strict=True) if len(curve.losses) == 1]
    if missing:
        raise ValueError(
            "Expected the candidates of `additive_sweep(constraint)` to be complete, but there is no trial of "
            + ("the dense network, or of " if len(missing) == len(curves) else "")
            + f"the groups {shorten(missing)} alone: enqueue them and run `study.optimize` first."
        )
    return dict(zip(constraint.names, least_sum(constraint, curves).tolist(), strict=True))


def measured_alone(study: optuna.Study, constraint: LatticeConstraint) -> list[Curve]:
    """Return what a study's complete trials say of each group alone; a curve of one point where they say nothing."""
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    history = History(constraint.names, partial(units_of, constraint))
    history.read(study)
    losses = {point: sign * trial.value for point, trial in history.complete.items() if trial.value is not None}
    points = [np.array(point) / constraint.sizes for point in losses]
    return curves_alone(constraint, points, list(losses.values()))
