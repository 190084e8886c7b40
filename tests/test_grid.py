"""The feasible grid: against brute force, with workers, crashes and restarts."""

from __future__ import annotations

import itertools
import pickle
import time
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from test_constraint import LARGE, SMALL, space_of

from optuna_softprune import SparsityConstraint, remaining_trials
from optuna_softprune.samplers import FeasibleGridSampler
from optuna_softprune.storage import this_worker, write_owner

optuna.logging.set_verbosity(optuna.logging.ERROR)
CONSTRAINT = SparsityConstraint(SMALL, 0.5, tolerance=0.03)


def grid(space: Any, levels: dict[str, int]) -> np.ndarray[Any, Any]:
    """Return all snapped grid points, unique, by walking the product."""
    highest = space.lattice.highest
    axes = [np.linspace(0, 1, count) * high for count, high in zip(levels.values(), highest, strict=True)]
    return np.unique(space.snap(np.array(list(itertools.product(*axes)))), axis=0)


def proposed(study: optuna.Study, names: Any = SMALL.lattice.names) -> list[tuple[float, ...]]:
    return [tuple(t.params[n] for n in names) for t in study.get_trials(states=(TrialState.COMPLETE,))]


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(2, 12)] * 3), st.floats(0.2, 0.8), st.sampled_from([0.005, 0.03]))
def test_grid_is_every_feasible_point_once(levels: tuple[int, ...], target: float, tolerance: float) -> None:
    by_name = dict(zip(SMALL.lattice.names, levels, strict=True))
    everything = grid(SMALL, by_name)
    feasible = everything[np.abs(SMALL.sparsity(everything) - target) <= tolerance]
    try:
        constraint = SparsityConstraint(SMALL, target, tolerance=tolerance)
    except ValueError:
        return
    if not len(feasible):
        with pytest.raises(ValueError, match="take more levels or a wider tolerance"):
            FeasibleGridSampler(SMALL, constraint, levels=by_name)
        return
    sampler = FeasibleGridSampler(SMALL, constraint, levels=by_name)
    assert len(sampler) == len(feasible)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: sum(SMALL.suggest(trial).values()))
    assert proposed(study) == [tuple(point) for point in feasible.tolist()]  # in prefix order
    assert len(study.trials) == len(feasible)


def test_grid_without_a_constraint_is_the_whole_product() -> None:
    sampler = FeasibleGridSampler(SMALL, levels={"0": 3, "2": 2, "4": 4})
    assert len(sampler) == 24
    with pytest.raises(ValueError, match=r"Expected a grid of at most 2,000,000 points, but got .*: give a constraint"):
        FeasibleGridSampler(space_of(6, *[20] * 8, 4), levels=11)


@pytest.mark.filterwarnings("ignore::optuna_softprune.VerificationWarning")
def test_more_feasible_points_than_anybody_tries_are_refused_before_they_fill_the_memory() -> None:
    space = space_of(*[4] * 16)
    with pytest.raises(
        ValueError, match=r"at most 2,000,000 feasible points, but of 268,435,456 points more are: take f"
    ):
        FeasibleGridSampler(space, SparsityConstraint(space, 0.3, tolerance=0.3), levels=4)


def test_large_grid_is_enumerated_in_seconds() -> None:
    space = space_of(24, 40, 32, 24, 12, 24, 32, 40, 24)
    sampler = FeasibleGridSampler(space, SparsityConstraint(space, 0.7))
    assert len(sampler) > 10_000


def test_study_resumed_by_a_rebuilt_sampler_goes_on() -> None:
    study = optuna.create_study(sampler=FeasibleGridSampler(SMALL, CONSTRAINT))
    study.enqueue_trial(dict(zip(SMALL.lattice.names, FeasibleGridSampler(SMALL, CONSTRAINT).point(5), strict=True)))
    while remaining_trials(study, len(study.sampler)):  # type: ignore[arg-type]
        study.sampler = pickle.loads(pickle.dumps(FeasibleGridSampler(SMALL, CONSTRAINT)))
        study.optimize(lambda trial: sum(SMALL.suggest(trial).values()), n_trials=7)
    counts = Counter(proposed(study))
    assert set(counts.values()) == {1}
    assert len(counts) == len(study.sampler)  # type: ignore[arg-type]


@pytest.mark.parametrize("jobs", [2, 4])
def test_threads_share_the_grid(jobs: int) -> None:
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: sum(SMALL.suggest(trial).values()), n_jobs=jobs)
    counts = Counter(proposed(study))
    assert set(counts.values()) == {1}
    assert len(counts) == len(sampler)


@pytest.mark.parametrize("jobs", [2, 3])
@pytest.mark.parametrize("failures", [0, 1])
def test_threads_leave_no_trial_without_a_point_at_the_end(
    jobs: int, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna_softprune.samplers import _claiming

    monkeypatch.setattr(_claiming, "WAIT_S", 0.1)  # however long the last point takes
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT, levels=4)
    assert len(sampler) > jobs
    last = sampler.point(len(sampler) - 1)
    tried = itertools.count()

    def slow_at_the_end(trial: optuna.Trial) -> float:
        if tuple(SMALL.suggest(trial).values()) != last:
            return 0.0
        time.sleep(0.5)  # nothing is left for the other threads, unless this fails
        return float("nan") if next(tried) < failures else 1.0

    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(slow_at_the_end, n_jobs=jobs)
    states = Counter(trial.state for trial in study.trials)
    assert states == {TrialState.COMPLETE: len(sampler)} | ({TrialState.FAIL: failures} if failures else {})
    assert tuple(study.best_params[name] for name in SMALL.lattice.names) == last


def test_point_whose_metric_failed_is_tried_twice_and_then_counted_as_failed() -> None:
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT)
    bad = {sampler.point(3), sampler.point(8)}
    tried: list[tuple[float, ...]] = []

    def objective(trial: optuna.Trial) -> float:
        point = tuple(SMALL.suggest(trial).values())
        tried.append(point)
        return float("nan") if point in bad else 0.0

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective)
    counts = Counter(tried)
    assert {point: counts[point] for point in bad} == dict.fromkeys(bad, 2)
    assert all(count == 1 for point, count in counts.items() if point not in bad)
    assert len(counts) == len(sampler)


def test_point_that_a_pruner_stopped_is_done() -> None:
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT)

    def objective(trial: optuna.Trial) -> float:
        SMALL.suggest(trial)
        if trial.number % 3:
            raise optuna.TrialPruned
        return 0.0

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective)
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert len(points) == len(set(points)) == len(sampler)


def test_killed_and_interrupted_trials_do_not_count() -> None:
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT)
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        trial = study.ask()
        write_owner(trial, this_worker())
        SMALL.suggest(trial)
        study.tell(trial, state=TrialState.FAIL)  # no reason of the metric
    dead = study.ask()
    write_owner(dead, {**this_worker(), "start": "1"})
    SMALL.suggest(dead)
    study.optimize(lambda trial: sum(SMALL.suggest(trial).values()))
    assert len(set(proposed(study))) == len(proposed(study)) == len(sampler)


def test_running_points_of_living_workers_are_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna_softprune.samplers import _claiming

    monkeypatch.setattr(_claiming, "WAIT_S", 0.5)
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT)
    study = optuna.create_study(sampler=sampler)
    other = study.ask()
    SMALL.suggest(other)
    study.optimize(lambda trial: sum(SMALL.suggest(trial).values()))
    assert len(proposed(study)) == len(sampler) - 1
    assert tuple(other.params.values()) not in proposed(study)
    (pruned,) = study.get_trials(states=(TrialState.PRUNED,))
    assert not pruned.params
    study.tell(other, 0.0)
    assert remaining_trials(study, len(sampler)) == 0


def test_parameters_of_the_users_own_are_drawn_at_random() -> None:
    sampler = FeasibleGridSampler(SMALL, CONSTRAINT)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("rate", 0, 1) + sum(SMALL.suggest(trial).values())

    study.optimize(objective)
    assert len(set(proposed(study))) == len(sampler)
    assert len({trial.params["rate"] for trial in study.trials}) == len(sampler)


def test_levels_that_fall_together_are_said(caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    FeasibleGridSampler(SMALL, CONSTRAINT, levels=11)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.logging.disable_propagation()
    assert "Groups with fewer units than levels have a level for each unit: 0, 2, 4." in caplog.text


@pytest.mark.parametrize("levels", [1, 0, 2.5, True, {"0": 3}, {"0": 3, "2": 3, "4": 1}])
def test_wrong_levels_are_said(levels: Any) -> None:
    with pytest.raises(ValueError, match="Expected `levels`"):
        FeasibleGridSampler(SMALL, CONSTRAINT, levels=levels)


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["maximize"] * 2, sampler=FeasibleGridSampler(SMALL, CONSTRAINT))
    with pytest.raises(ValueError, match="Expected a study with one objective"):
        study.optimize(lambda trial: tuple(SMALL.suggest(trial).values())[:2], n_trials=1)


def test_large_lattice_orders_points_so_that_neighbours_share_prefixes() -> None:
    sampler = FeasibleGridSampler(LARGE, SparsityConstraint(LARGE, 0.6), levels=9)
    points = np.array([sampler.point(i) for i in range(len(sampler))])
    assert (np.lexsort(points.T[::-1]) == np.arange(len(points))).all()
