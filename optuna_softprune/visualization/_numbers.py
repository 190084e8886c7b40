"""What is drawn, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import TrialState

from optuna_softprune.coefficients import COUNTED, Count
from optuna_softprune.evaluation import METRIC
from optuna_softprune.objective import (
    CANDIDATE,
    CONSTRAINT,
    COUNTS,
    COUNTS_OF_DENSE,
    DENSE,
    FEASIBLE,
    FORMULA,
    GROUPS,
    METRIC_NAME,
    OBJECTIVE,
    PREFIX,
    ROLE,
    WEIGHTS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Coefficients of the best feasible trials.

    Attributes:
        groups: Names of the groups, in execution order.
        trials: Shape (N,): numbers of the trials, the best first.
        metric: Shape (N,): their metric.
        coefficients: Shape (G, N), in [0, 1): the fraction of each group that is removed.
        name: The name of the metric.
    """

    groups: tuple[str, ...]
    trials: IntArray
    metric: FloatArray
    coefficients: FloatArray
    name: str


@dataclass(frozen=True, slots=True)
class Sparsity:
    """The metric against the sparsity of every complete trial.

    Attributes:
        trials: Shape (N,): numbers of the trials.
        sparsity: Shape (N,), in [0, 1).
        metric: Shape (N,).
        feasible: Shape (N,), bool.
        roles: What each trial was for: `candidate`, `iterate`, `probe`, ..., or what it was enqueued as.
        dense: The metric of the dense network, or None.
        of: What sparsity is counted over, "parameters" or "macs".
        target: Target and tolerance of the search, or None.
        best: Place of the best feasible trial among the N, or None.
        name: The name of the metric.
    """

    trials: IntArray
    sparsity: FloatArray
    metric: FloatArray
    feasible: NDArray[np.bool_]
    roles: tuple[str, ...]
    dense: float | None
    of: str
    target: tuple[float, float] | None
    best: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Convergence:
    """The best feasible metric so far.

    Attributes:
        evaluations: Shape (N,): complete trials so far, from 1.
        metric: Shape (N,): the metric of each; NaN where it is not feasible.
        best: Shape (N,): the best so far; NaN before the first feasible one.
        roles: What each trial was for, as in `Sparsity`.
        dense: The metric of the dense network, or None.
        name: The name of the metric.
    """

    evaluations: IntArray
    metric: FloatArray
    best: FloatArray
    roles: tuple[str, ...]
    dense: float | None
    name: str


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The best feasible metric that was found with the coefficient of a group in some range.

    Attributes:
        groups: Names of the groups, in execution order.
        edges: Shape (B + 1,): bounds of the ranges, from 0 to just above the largest coefficient.
        best: Shape (G, B): the best metric with the coefficient in the range; NaN where nothing was evaluated.
        name: The name of the metric.
    """

    groups: tuple[str, ...]
    edges: FloatArray
    best: FloatArray
    name: str


@dataclass(frozen=True, slots=True)
class Widths:
    """What the best feasible trial keeps of each group.

    Attributes:
        groups: Names of the groups, in execution order.
        dense: Shape (G,): units in the dense network.
        kept: Shape (G,): units that are kept.
        dense_parameters: Shape (G,): parameters that would go with a group of the dense network; None if the study does
            not say, as when it was made by an earlier version or of thousands of groups.
        parameters: Shape (G,): the same of the smaller network.
        trial: The number of the trial.
        metric: Its metric.
        name: The name of the metric.
    """

    groups: tuple[str, ...]
    dense: IntArray
    kept: IntArray
    dense_parameters: IntArray | None
    parameters: IntArray | None
    trial: int
    metric: float
    name: str


@dataclass(frozen=True, slots=True)
class Front:
    """The best feasible trial of each of some studies.

    Attributes:
        studies: Shape (N,): names of the studies, the one with the lowest sparsity first.
        trials: Shape (N,): numbers of the trials.
        metric: Shape (N,): their metric.
        values: Every named metric, "sparsity" (of what the study's constraint counts), "parameters" and "macs": (N,).
        dense_metric: The metric of the dense network, or None.
        dense: The other values of the dense network, as far as they are known.
        name: The name of the metric.
    """

    studies: tuple[str, ...]
    trials: IntArray
    metric: FloatArray
    values: dict[str, FloatArray]
    dense_metric: float | None
    dense: dict[str, float]
    name: str


def coefficients(study: optuna.Study, *, metric: str | None = None, count: int = 50) -> Coefficients:
    """Return the coefficients of the `count` best feasible trials.

    Args:
        study: A study of a `PruningObjective`.
        metric: One of the metrics that it names; default: its only objective.
        count: How many trials, at most.

    Raises:
        ValueError: If the study is not one of ours, no trial is feasible, or the metric is not known.
    """
    name, sign, trials = _complete(study, metric)
    feasible = sorted(_feasible(trials), key=lambda trial: -sign * _value(trial, name))[:count]
    groups = _groups(study)
    return Coefficients(
        tuple(groups),
        np.array([trial.number for trial in feasible], np.int64),
        np.array([_value(trial, name) for trial in feasible]),
        _removed(feasible, groups).T,
        _shown(study, name),
    )


def sparsity(study: optuna.Study, *, metric: str | None = None) -> Sparsity:
    """Return the metric and the sparsity of every complete trial; arguments and errors as in `convergence`."""
    name, sign, trials = _complete(study, metric)
    constraint: Any = study.user_attrs[CONSTRAINT]
    values = np.array([_value(trial, name) for trial in trials])
    feasible = np.array([_is_feasible(trial) for trial in trials], bool)
    return Sparsity(
        np.array([trial.number for trial in trials], np.int64),
        np.array([trial.user_attrs[f"{PREFIX}sparsity"] for trial in trials], np.float64),
        values,
        feasible,
        _roles(trials),
        _dense(study, name),
        "parameters" if constraint is None else constraint["of"],
        None if constraint is None else (constraint["target"], constraint["tolerance"]),
        int(np.argmax(np.where(feasible, sign * values, -np.inf))) if feasible.any() else None,
        _shown(study, name),
    )


def convergence(study: optuna.Study, *, metric: str | None = None) -> Convergence:
    """Return the best metric so far, by complete trials; arguments as in `coefficients`.

    Raises:
        ValueError: If the study is not one of ours, no trial is complete, or the metric is not known.
    """
    name, sign, trials = _complete(study, metric)
    found = np.array([_value(trial, name) if _is_feasible(trial) else np.nan for trial in trials])
    best = sign * np.fmax.accumulate(sign * found)
    return Convergence(
        np.arange(1, len(trials) + 1), found, best, _roles(trials), _dense(study, name), _shown(study, name)
    )


def sensitivity(study: optuna.Study, *, metric: str | None = None, ranges: int = 10) -> Sensitivity:
    """Return the best metric for ranges of each coefficient; other arguments and errors as in `coefficients`."""
    name, sign, trials = _complete(study, metric)
    feasible = _feasible(trials)
    groups = _groups(study)
    removed = _removed(feasible, groups)
    # Whole hundredths, so that the edges are what their labels say.
    highest = np.ceil(100 * removed.max(initial=0.01) / ranges) * ranges / 100
    edges = np.linspace(0, highest, ranges + 1)
    best = np.full((len(groups), ranges), np.nan)
    places = np.clip(np.searchsorted(edges, removed + 1e-12, side="right") - 1, 0, ranges - 1)
    for trial, row in zip(feasible, places, strict=True):
        for group, place in enumerate(row):
            best[group, place] = sign * np.fmax(sign * best[group, place], sign * _value(trial, name))
    return Sensitivity(tuple(groups), edges, best, _shown(study, name))


def widths(study: optuna.Study, *, metric: str | None = None) -> Widths:
    """Return what the best feasible trial keeps of each group; arguments and errors as in `coefficients`."""
    name, sign, trials = _complete(study, metric)
    best = max(_feasible(trials), key=lambda trial: sign * _value(trial, name))
    groups = _groups(study)
    dense, kept = np.array(list(groups.values()), np.int64), np.array(best.user_attrs[CANDIDATE]["kept"], np.int64)
    held = study.user_attrs.get(FORMULA)
    formula = None if held is None else Count.of_dict(held)
    return Widths(
        tuple(groups),
        dense,
        kept,
        None if formula is None else formula.touched(dense),
        None if formula is None else formula.touched(kept),
        best.number,
        _value(best, name),
        _shown(study, name),
    )


def front(studies: Sequence[optuna.Study], *, metric: str | None = None) -> Front:
    """Return what the best feasible trials of studies of one network have, each of another target.

    Args:
        studies: Studies of a `PruningObjective`, of the same network.
        metric: One of the metrics that they name; default: their only objective.

    Raises:
        ValueError: As `coefficients`; if there is no study, one is of another network, or one has no feasible trial.
    """
    if not studies:
        raise ValueError("Expected at least one study, but got none.")
    found = []
    for study in studies:
        name, sign, trials = _complete(study, metric)
        best = _best(trials, name, sign)
        if best is None:
            raise ValueError(f"Expected a feasible trial in each study, but {study.study_name!r} has none yet.")
        if study.user_attrs[WEIGHTS] != studies[0].user_attrs[WEIGHTS]:
            raise ValueError(
                f"Expected studies of one network, but {study.study_name!r} and {studies[0].study_name!r} have others."
            )
        found.append((best, study))
    found.sort(key=lambda each: _value(each[0], "sparsity"))
    trials = [trial for trial, _ in found]
    named = [key for key in trials[0].user_attrs[CANDIDATE]["metrics"] if all(_has(trial, key) for trial in trials)]
    dense = {key: _dense(studies[0], key) for key in (*named, *COUNTS)}
    return Front(
        tuple(study.study_name for _, study in found),
        np.array([trial.number for trial in trials], np.int64),
        np.array([_value(trial, name) for trial in trials]),
        {key: np.array([_value(trial, key) for trial in trials]) for key in (*named, *COUNTS)},
        _dense(studies[0], name),
        {key: value for key, value in dense.items() if value is not None},
        _shown(studies[0], name),
    )


def _feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the feasible trials, of which there is one."""
    found = list(filter(_is_feasible, trials))
    if not found:
        raise ValueError(f"Expected a feasible trial, but none of the {len(trials)} complete ones is.")
    return found


def _best(trials: Sequence[FrozenTrial], name: str, sign: int) -> FrozenTrial | None:
    """Return the best feasible trial, or None if none is feasible."""
    return max(filter(_is_feasible, trials), key=lambda trial: sign * _value(trial, name), default=None)


def _has(trial: FrozenTrial, metric: str) -> bool:
    return metric in trial.user_attrs[CANDIDATE]["metrics"]


def _complete(study: optuna.Study, metric: str | None) -> tuple[str, int, list[FrozenTrial]]:
    """Return the metric's name, +1 if more of it is better and -1 if less, and the complete trials."""
    if not isinstance(study, optuna.Study):
        raise TypeError(
            f"Expected `study` to be an Optuna study, but got {study!r}: `optuna.load_study(...)` returns it."
        )
    objective: Any = study.user_attrs.get(OBJECTIVE)
    if objective is None:
        raise ValueError(
            f"Expected a study of a `PruningObjective`, but {study.study_name!r} holds no search of this package."
        )
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if CANDIDATE in trial.user_attrs
    ]
    if not trials:
        raise ValueError(f"Expected complete trials, but {study.study_name!r} has none yet.")
    names = objective["names"]
    if metric is None and len(names) > 1:
        raise ValueError(f"Expected `metric` to say which of the objectives {names} is meant, but got None.")
    name = names[0] if metric is None else metric
    known = [*trials[0].user_attrs[CANDIDATE]["metrics"], *(each for each in names if each in COUNTS)]
    if name not in known:
        raise ValueError(f"Expected `metric` to be one of {known}, but got {name!r}.")
    direction = study.directions[names.index(name)] if name in names else StudyDirection.MAXIMIZE
    return name, 1 if direction == StudyDirection.MAXIMIZE else -1, trials


def _shown(study: optuna.Study, name: str) -> str:
    """Return the name of a metric for people: a float metric is called as its function is."""
    return str(study.user_attrs.get(METRIC_NAME, name)) if name == METRIC else COUNTED.get(name, name)


def _dense(study: optuna.Study, name: str) -> float | None:
    """Return what the dense network has of a metric, or of a count."""
    if name == "sparsity":
        return 0.0
    found: dict[str, float] = {**study.user_attrs.get(DENSE, {}), **study.user_attrs[COUNTS_OF_DENSE]}
    return found.get(name)


def _roles(trials: list[FrozenTrial]) -> tuple[str, ...]:
    return tuple(str(trial.user_attrs.get(ROLE, "candidate")) for trial in trials)


def _value(trial: FrozenTrial, name: str) -> float:
    held = trial.user_attrs[f"{PREFIX}{name}"] if name in COUNTS else trial.user_attrs[CANDIDATE]["metrics"][name]
    return float(held)


def _is_feasible(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(FEASIBLE, 1))


def _groups(study: optuna.Study) -> dict[str, int]:
    """Return group name -> size."""
    held = study.user_attrs[GROUPS]
    if not isinstance(held, dict):
        raise ValueError("Expected a table of the groups in the study, but it has too many: only their hash is kept.")
    return held


def _removed(trials: list[FrozenTrial], groups: dict[str, int]) -> FloatArray:
    """Return the coefficients (N, G) of trials."""
    kept = np.array([trial.user_attrs[CANDIDATE]["kept"] for trial in trials], np.float64).reshape(-1, len(groups))
    found: FloatArray = 1 - kept / np.array(list(groups.values()), np.float64)
    return found
