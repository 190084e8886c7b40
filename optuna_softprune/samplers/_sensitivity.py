"""A start from trials that prune one group alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection

from optuna_softprune.samplers._arguments import check_constraint, check_fraction, units_of
from optuna_softprune.storage import History

if TYPE_CHECKING:
    import optuna

    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]


def sensitivity_sweep(constraint: LatticeConstraint, *, share: float = 0.75) -> list[dict[str, float]]:
    """Return the dense network and, for each group, the network that is pruned there alone: G + 1 candidates.

    To be enqueued (`study.enqueue_trial(c, skip_if_exists=True)`) and evaluated before `sensitivity_start`. They do not
    meet the constraint.

    Args:
        constraint: The constraint of the search.
        share: How much of a group's largest coefficient is removed, in (0, 1].
    """
    check_constraint(constraint)
    check_fraction("share", share, "how much of a group's largest coefficient is removed")
    points = [np.zeros(len(constraint.names)), *constraint.snap(np.diag(share * constraint.highest))]
    return [dict(zip(constraint.names, point.tolist(), strict=True)) for point in points]


def sensitivity_start(study: optuna.Study, constraint: LatticeConstraint, *, share: float = 0.75) -> dict[str, float]:
    """Return the feasible candidate that a sweep holds for the best, as if groups did not act on each other.

    What removing c of group g costs is taken as k_g c^2, with k_g from the sweep; the candidate minimises the sum under
    the constraint. A guess to begin with, which any sampler can be given: `study.enqueue_trial(...)`.

    Args:
        study: A study in which the candidates of `sensitivity_sweep` are complete.
        constraint: The constraint of the search.
        share: That of the sweep.

    Raises:
        ValueError: If one of the sweep is not complete.
    """
    from scipy.optimize import minimize

    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    names = constraint.names
    history = History(names, partial(units_of, constraint))
    history.read(study)
    known = {point: sign * trial.value for point, trial in history.complete.items() if trial.value is not None}
    swept = [np.array(list(c.values())) for c in sensitivity_sweep(constraint, share=share)]
    points = [units_of(constraint, c) for c in swept]
    missing = sum(point not in known for point in points)
    if missing:
        raise ValueError(
            f"Expected the {len(points)} candidates of `sensitivity_sweep(constraint, share={share})` to be complete, "
            f"but {missing} are not: enqueue them and run `study.optimize` first."
        )
    dense, *alone = (known[point] for point in points)
    cost = np.maximum(np.array(alone) - dense, 0) / np.diagonal(swept[1:]) ** 2
    cost = np.maximum(cost, 1e-6 * cost.max() or 1.0)  # what seems to cost nothing costs little
    cost /= cost.max()
    found = minimize(  # type: ignore[call-overload]  # arrays of any shape are not in its types
        lambda c: float(cost @ c**2),
        constraint.project(np.zeros(len(names))),
        jac=lambda c: 2 * cost * c,
        method="SLSQP",
        bounds=[(0.0, high) for high in constraint.highest.tolist()],
        constraints={"type": "eq", "fun": constraint.residual, "jac": constraint.gradient},
        options={"ftol": 1e-9, "maxiter": 500},
    )
    start = constraint.project(np.clip(found.x, 0, constraint.highest))
    return dict(zip(names, start.tolist(), strict=True))
