"""Finite differences and SLSQP: known optima, SciPy itself, crashes, workers, failures."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState
from scipy.optimize import LinearConstraint, minimize
from test_constraint import SMALL, space_of

from optuna_softprune import SparsityConstraint
from optuna_softprune.samplers import FiniteDifferenceSampler, ProjectedSampler, SLSQPSampler
from optuna_softprune.storage import claim_of, this_worker, write_owner
from optuna_softprune.testing import AnalyticProblem, analytic_problem, analytic_problems, problem_of_many_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna_softprune.samplers._replay import ReplaySampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
PROBLEMS = analytic_problems()
SAMPLERS = {"finite differences": FiniteDifferenceSampler, "slsqp": SLSQPSampler}
SIMULTANEOUS = partial(FiniteDifferenceSampler, scheme="simultaneous")
both = pytest.mark.parametrize("kind", SAMPLERS.values(), ids=SAMPLERS)
KINDS = {**SAMPLERS, "simultaneous": SIMULTANEOUS}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
# Trials for each group within which the optimum is reached: the most that any problem takes is 29.
TRIALS_PER_GROUP = 35


def coefficients(problem: AnalyticProblem, trial: optuna.Trial) -> np.ndarray[Any, Any]:
    constraint = problem.constraint
    return np.array(
        [trial.suggest_float(n, 0, high) for n, high in zip(constraint.names, constraint.highest, strict=True)]
    )


def objective(problem: AnalyticProblem) -> Callable[[optuna.Trial], float]:
    def evaluated(trial: optuna.Trial) -> float:
        c = coefficients(problem, trial)
        trial.set_constraint("sparsity", float(problem.constraint.violation(c)))
        return problem.loss(c)

    return evaluated


def search(problem: AnalyticProblem, sampler: ReplaySampler, trials: int, **settings: Any) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective(problem), n_trials=trials, **settings)
    return study


def points(study: optuna.Study, *, extras: bool = True) -> list[tuple[int, ...]]:
    """Return the points that were claimed, in order."""
    claims = [claim_of(trial) for trial in study.trials if trial.state == TrialState.COMPLETE]
    return [claim.point for claim in claims if claim and (extras or claim.role != "extra")]


@both
@pytest.mark.parametrize("name", PROBLEMS)
def test_known_optima_are_reached(kind: type[ReplaySampler], name: str) -> None:
    problem = PROBLEMS[name]
    study = search(problem, kind(problem.constraint), TRIALS_PER_GROUP * len(problem.center))
    assert len(set(points(study))) == len(points(study))  # nothing twice
    feasible = [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if t.constraints["sparsity"] <= 0]
    found = min(problem.exact(np.array(list(trial.params.values()))) for trial in feasible)
    assert found <= problem.exact(problem.constraint.project(problem.optimum)) + 1e-12


@pytest.mark.parametrize(("chained", "interactions"), [(False, False), (True, True)])
def test_many_groups_take_six_trials_each(chained: bool, interactions: bool) -> None:
    """Within 1 % of the optimum, from nothing: no sweep comes before."""
    problem = problem_of_many_groups(30, chained=chained, interactions=interactions)
    study = search(problem, SIMULTANEOUS(problem.constraint), 6 * 30)
    found = [np.array(list(trial.params.values())) for trial in study.trials if trial.constraints["sparsity"] <= 0]
    assert len(found) == len(study.trials)  # every probe is a candidate
    assert min(map(problem.exact, found)) <= 1.01 * problem.exact(problem.optimum)


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_feasible_point_is_below_the_optimum_of_many_groups(seed: int, chained: bool) -> None:
    problem = problem_of_many_groups(12, chained=chained, interactions=True, seed=seed)
    constraint = problem.constraint
    assert constraint.violation(problem.optimum) <= 0
    assert constraint.snap(problem.optimum).tolist() == problem.optimum.tolist()
    for start in (np.full(12, 0.6), np.linspace(0.1, 0.8, 12)):
        found = minimize(
            problem.exact,
            start,
            jac=lambda c: problem.hessian @ c,
            method="SLSQP",
            bounds=[(0, high) for high in constraint.highest],
            constraints={
                "type": "ineq",
                "fun": lambda c: constraint.residual(np.clip(c, 0, constraint.highest)) + constraint.tolerance,
                "jac": lambda c: constraint.gradient(np.clip(c, 0, constraint.highest)),
            },
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert found.fun == pytest.approx(problem.exact(problem.optimum), rel=1e-5)


@pytest.mark.parametrize("name", PROBLEMS)
def test_optima_are_those_of_another_optimizer(name: str) -> None:
    problem = PROBLEMS[name]
    constraint = problem.constraint
    normal = constraint.gradient(np.zeros(len(problem.center)))
    found = minimize(
        problem.exact,
        np.full(len(problem.center), 0.4),
        jac=lambda c: problem.hessian @ (c - problem.center),
        hess=lambda c: problem.hessian,
        method="trust-constr",
        bounds=[(0, high) for high in constraint.highest],
        constraints=LinearConstraint(normal, constraint.target, constraint.target),
        options={"gtol": 1e-10, "xtol": 1e-12, "maxiter": 2000},
    )
    assert constraint.residual(problem.optimum) == pytest.approx(0, abs=1e-9)
    assert problem.exact(problem.optimum) == pytest.approx(found.fun, rel=1e-4)


def test_problems_are_what_their_names_say() -> None:
    bound = PROBLEMS["on a bound"]
    assert ((bound.optimum == 0) | (bound.optimum == bound.constraint.highest)).sum() == 2
    inside = PROBLEMS["interior"].optimum
    assert ((inside > 0) & (inside < PROBLEMS["interior"].constraint.highest)).all()


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")  # of SciPy 1.11, by rounding
@pytest.mark.parametrize("name", ["interior", "on a bound", "ill-conditioned", "twenty variables"])
def test_slsqp_asks_for_the_points_that_scipy_asks_for(name: str) -> None:
    problem = PROBLEMS[name]
    constraint, step = problem.constraint, 0.03
    sizes = np.array(constraint.sizes)
    asked: dict[tuple[int, ...], float] = {}

    def metric(c: np.ndarray[Any, Any]) -> float:
        return asked.setdefault(tuple(np.rint(c * sizes).astype(int).tolist()), problem.loss(c))

    def inside(c: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.clip(c, 0, constraint.highest)

    def rounded(c: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return inside(np.floor(c * sizes + 0.5) / sizes)

    def gradient(c: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        c = rounded(c)
        units = np.maximum(1, np.rint(step * sizes)) / sizes
        ahead = [rounded(c + each) for each in np.diag(units)]
        behind = [rounded(c - each) for each in np.diag(units)]
        values = [metric(each) for each in [*ahead, *behind]]
        moved = np.array([a[g] - b[g] for g, (a, b) in enumerate(zip(ahead, behind, strict=True))])
        return (np.array(values[: len(c)]) - np.array(values[len(c) :])) / moved

    start = constraint.project(np.zeros(len(sizes)))
    metric(start)
    result = minimize(
        lambda c: metric(rounded(c)),
        start,
        jac=gradient,
        method="SLSQP",
        bounds=[(0, high) for high in constraint.highest],
        constraints={
            "type": "eq",
            "fun": lambda c: constraint.residual(inside(c)),
            "jac": lambda c: constraint.gradient(inside(c)),
        },
        options={"ftol": 1e-6, "maxiter": 100},
    )
    study = search(problem, SLSQPSampler(constraint, step=step), 40 * len(sizes))
    run = [claim for claim in map(claim_of, study.trials) if claim]
    starts = [i for i, claim in enumerate(run) if claim.role == "start"]
    run = run[: starts[1]] if len(starts) > 1 else run  # what follows is another run
    # Points that were asked for as candidates first are not asked for again.
    candidates = {claim.point for claim in run if claim.role == "candidate"}
    ours = [claim.point for claim in run if claim.role != "candidate"]
    theirs = [point for point in asked if point not in candidates]
    together = min(len(ours), len(theirs))
    assert together > 20
    assert ours[:together] == theirs[:together]
    report = study.user_attrs["softprune:slsqp:0"]
    if report["message"] != "Two iterates in a row have the same lattice point.":  # there SciPy goes on in vain
        assert report["iterations"] == result.nit
        assert report["message"] == result.message
        assert report["success"] == result.success
        assert len(ours) == len(theirs)


@every
def test_search_resumed_by_rebuilt_samplers_is_the_same(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    whole = search(problem, kind(problem.constraint), 120)
    study = optuna.create_study()
    while len(study.trials) < 120:
        study.sampler = pickle.loads(pickle.dumps(kind(problem.constraint)))
        study.optimize(objective(problem), n_trials=13)
    assert points(study)[:120] == points(whole)
    assert study.user_attrs == {**whole.user_attrs, **study.user_attrs}


@every
def test_worker_killed_before_it_wrote_anything_holds_nothing_up(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    alone = points(search(problem, kind(problem.constraint), 60))
    study = search(problem, kind(problem.constraint), 10)
    for _ in range(3):
        study._storage.create_new_trial(study._study_id)  # runs for ever, and has neither a claim nor an owner
        study.sampler = kind(problem.constraint)  # what the next worker has
        study.optimize(objective(problem), n_trials=6)
    shared = points(study, extras=False)
    assert set(shared) <= set(alone)
    assert set(alone[:20]) <= set(points(study))


@every
@pytest.mark.parametrize("jobs", [2, 4])
def test_threads_share_a_search_and_do_not_change_it(kind: type[ReplaySampler], jobs: int) -> None:
    problem = PROBLEMS["interior"]
    alone = points(search(problem, kind(problem.constraint), 150))
    study = search(problem, kind(problem.constraint), 150, n_jobs=jobs)
    shared = points(study, extras=False)
    assert len(set(points(study))) == len(points(study))
    # An extra may be what the search asks for later: it is then known, and not asked for again.
    extra = set(points(study)) - set(shared)
    expected = [point for point in alone if point not in extra]
    assert set(shared[: len(shared) - jobs]) <= set(expected)
    assert len(shared) > 60
    constraint = problem.constraint
    assert all(constraint.violation(np.array(point) / constraint.sizes) <= 0 for point in extra)


def _points_elsewhere(kind: type[ReplaySampler]) -> list[tuple[int, ...]]:
    problem = analytic_problems()["interior"]
    return points(search(problem, kind(problem.constraint), 40))


@every
def test_another_process_makes_the_same_search(kind: type[ReplaySampler]) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_points_elsewhere, (kind,)) == _points_elsewhere(kind)


@every
def test_point_whose_metric_failed_is_tried_twice_and_is_not_fatal(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    bad = set(points(search(problem, kind(problem.constraint), 20))[2::3])

    def evaluated(trial: optuna.Trial) -> float:
        c = coefficients(problem, trial)
        return float("nan") if tuple(np.rint(c * problem.constraint.sizes)) in bad else problem.loss(c)

    study = optuna.create_study(sampler=kind(problem.constraint))
    study.optimize(evaluated, n_trials=150)
    failed = Counter(claim_of(t).point for t in study.trials if t.state == TrialState.FAIL)  # type: ignore[union-attr]
    assert set(failed) <= bad
    assert len(failed) > 1
    assert set(failed.values()) == {2}
    optimum = problem.exact(problem.constraint.project(problem.optimum))
    assert min(problem.exact(np.array(p) / problem.constraint.sizes) for p in points(study)) <= optimum * 1.05


@every
def test_everything_failing_is_not_fatal(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    study = optuna.create_study(sampler=kind(problem.constraint))

    def evaluated(trial: optuna.Trial) -> float:
        coefficients(problem, trial)
        return float("nan")

    study.optimize(evaluated, n_trials=30)
    counts = Counter(claim_of(trial).point for trial in study.trials)  # type: ignore[union-attr]
    assert set(counts.values()) == {2}


@every
def test_killed_and_interrupted_trials_do_not_count(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    alone = points(search(problem, kind(problem.constraint), 40))
    study = optuna.create_study(sampler=kind(problem.constraint))
    for _ in range(3):
        trial = study.ask()
        write_owner(trial, this_worker())
        coefficients(problem, trial)
        study.tell(trial, state=TrialState.FAIL)  # no reason of the metric
    dead = study.ask()
    write_owner(dead, {**this_worker(), "start": "1"})
    coefficients(problem, dead)
    study.optimize(objective(problem), n_trials=40)
    assert points(study) == alone


@every
def test_best_trial_before_is_the_start(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["ill-conditioned"]
    good = problem.constraint.project(problem.optimum)
    study = optuna.create_study(sampler=ProjectedSampler(optuna.samplers.RandomSampler(seed=0), problem.constraint))
    study.optimize(objective(problem), n_trials=10)
    study.enqueue_trial(dict(zip(problem.constraint.names, good.tolist(), strict=True)))
    study.sampler = kind(problem.constraint)
    study.optimize(objective(problem), n_trials=12)
    found = np.array([list(trial.params.values()) for trial in study.trials[12:]])
    assert np.median(np.abs(found - good).max(axis=1)) < 0.25  # it looks around there


@every
def test_probes_beside_the_best_are_known_when_another_search_left_them(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    first = search(problem, kind(problem.constraint), 60)
    first.sampler = kind(problem.constraint, seed=1)
    first.optimize(objective(problem), n_trials=60)
    assert len(set(points(first))) == 120


@every
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_requirements_hold_at_the_end(kind: type[ReplaySampler], direction: str) -> None:
    """A bound on the first coefficient, known only as a metric's requirement: the optimum is that of a smaller box."""
    problem = analytic_problem("required", (64, 48, 32, 80, 56), seed=2)
    limit = float(problem.optimum[0]) - 0.15
    sign = 1 if direction == "minimize" else -1

    def evaluated(trial: optuna.Trial) -> float:
        c = coefficients(problem, trial)
        trial.set_constraint("sparsity", float(problem.constraint.violation(c)))
        trial.set_constraint("requirement:first", float(c[0]) - limit)
        return sign * problem.loss(c)

    study = optuna.create_study(direction=direction, sampler=kind(problem.constraint))
    study.optimize(evaluated, n_trials=250)
    curvature, normal = np.diag(problem.hessian)[1:], problem.constraint.gradient(np.zeros(5))
    rest = problem.constraint.target - normal[0] * limit
    multiplier = (normal[1:] @ problem.center[1:] - rest) / (normal[1:] ** 2 / curvature).sum()
    optimum = np.array([limit, *(problem.center[1:] - multiplier * normal[1:] / curvature)])
    assert problem.constraint.residual(optimum) == pytest.approx(0, abs=1e-9)
    assert sign * study.best_value <= problem.exact(optimum) * 1.1
    assert study.best_trial.params[problem.constraint.names[0]] <= limit


def test_every_finite_difference_is_a_candidate() -> None:
    problem = PROBLEMS["on a bound"]
    study = search(problem, FiniteDifferenceSampler(problem.constraint), 100)
    assert all(trial.constraints["sparsity"] <= 0 for trial in study.trials)


def test_slsqp_evaluates_its_iterates_projected() -> None:
    problem = analytic_problem("narrow", (64, 48, 32, 80, 56), tolerance=0.0005)
    study = search(problem, SLSQPSampler(problem.constraint), 60)
    roles = [claim.role for claim in map(claim_of, study.trials) if claim]
    assert roles[0] == "start"
    assert {"probe", "step", "candidate"} <= set(roles)
    feasible = [t for t in study.trials if t.constraints["sparsity"] <= 0]
    candidates = [t for t, role in zip(study.trials, roles, strict=True) if role in ("candidate", "start")]
    assert all(trial in feasible for trial in candidates)


@both
@pytest.mark.parametrize("scheme", ["one-sided", "central"])
def test_hardware_friendly_widths(kind: Any, scheme: str) -> None:
    """With `round_to` neighbouring levels are 8 units apart; probes must reach them."""
    space = space_of(16, 64, 48, 40, 16, round_to=8)
    constraint = SparsityConstraint(space, 0.5, tolerance=0.03)
    study = optuna.create_study(sampler=kind(constraint, scheme=scheme))
    study.optimize(lambda trial: sum((v - 0.6) ** 2 for v in space.suggest(trial).values()), n_trials=30)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    known = list(np.unique([list(trial.params.values()) for trial in complete], axis=0))
    assert len(known) == len(complete) > 5
    assert all(space.snap(c).tolist() == c.tolist() for c in known)


@every
def test_search_without_anything_left_stops_by_itself(kind: type[ReplaySampler]) -> None:
    space = space_of(3, 4, 3, 2)
    constraint = SparsityConstraint(space, 0.4, tolerance=0.12)
    study = optuna.create_study(sampler=kind(constraint))
    study.optimize(lambda trial: sum(space.suggest(trial).values()))
    grid = np.array(np.meshgrid(*space.lattice.levels)).reshape(2, -1).T / space.lattice.sizes
    feasible = {tuple(c) for c in grid.tolist() if constraint.violation(np.array(c)) <= 0}
    assert feasible <= {tuple(t.params.values()) for t in study.get_trials(states=(TrialState.COMPLETE,))}


@every
def test_value_that_comes_later_for_an_earlier_trial_counts(kind: type[ReplaySampler]) -> None:
    """With a noisy metric the trial with the lowest number counts, whenever it ends: rebuilt samplers agree."""
    problem = PROBLEMS["interior"]
    study = optuna.create_study(sampler=kind(problem.constraint))
    early = study.ask()
    params = dict(zip(problem.constraint.names, coefficients(problem, early).tolist(), strict=True))
    study.enqueue_trial(params)
    study.optimize(objective(problem), n_trials=30)
    study.tell(early, 100.0)
    study.optimize(objective(problem), n_trials=10)
    again = optuna.create_study(sampler=kind(problem.constraint))
    again.add_trials(study.trials[:-10])
    again.optimize(objective(problem), n_trials=10)
    assert points(again)[-10:] == points(study)[-10:]


@both
def test_parameters_of_the_users_own_are_drawn_at_random_and_reproducibly(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]

    def evaluated(trial: optuna.Trial) -> float:
        return (
            trial.suggest_float("rate", 0, 1)
            + trial.suggest_int("k", 1, 9)
            + problem.loss(coefficients(problem, trial))
        )

    one, two = optuna.create_study(sampler=kind(problem.constraint)), optuna.create_study()
    one.optimize(evaluated, n_trials=20)
    for _ in range(2):
        two.sampler = kind(problem.constraint)
        two.optimize(evaluated, n_trials=10)
    assert len({trial.params["rate"] for trial in one.trials}) == 20
    assert [trial.params for trial in one.trials] == [trial.params for trial in two.trials]


@both
@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"step": 0}, r"Expected `step` to be in \(0, 1\], but got 0"),
        ({"step": -0.1}, "Expected `step`"),
        ({"step": "3 %"}, "Expected `step`"),
        ({"scheme": "forward"}, 'Expected `scheme` to be "one-sided"(, "central")? or "(central|simultaneous)"'),
        ({"seed": -1}, "Expected `seed` to be an integer of at least 0"),
        ({"seed": 0.5}, "Expected `seed`"),
    ],
)
def test_wrong_settings_are_said(kind: Any, settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        kind(PROBLEMS["interior"].constraint, **settings)


def test_wrong_settings_of_one_are_said() -> None:
    constraint = PROBLEMS["interior"].constraint
    with pytest.raises(ValueError, match=r"Expected `rate` to be in \(0, 1\]"):
        FiniteDifferenceSampler(constraint, rate=-1)
    with pytest.raises(ValueError, match="Expected `ftol` to be above 0"):
        SLSQPSampler(constraint, ftol=0)
    with pytest.raises(ValueError, match="Expected `maxiter` to be an integer of at least 1"):
        SLSQPSampler(constraint, maxiter=0)


@both
def test_wrong_constraint_is_said(kind: Any) -> None:
    with pytest.raises(TypeError, match="Expected `constraint` to be a `LatticeConstraint`, but got PruningSpace"):
        kind(SMALL)


@both
def test_several_objectives_are_refused(kind: type[ReplaySampler]) -> None:
    problem = PROBLEMS["interior"]
    study = optuna.create_study(directions=["minimize"] * 2, sampler=kind(problem.constraint))
    with pytest.raises(ValueError, match="Expected a study with one objective, but got 2"):
        study.optimize(lambda trial: tuple(coefficients(problem, trial)[:2]), n_trials=1)


class _Conformance:
    @pytest.fixture(params=KINDS.values(), ids=KINDS)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: request.param(PROBLEMS["interior"].constraint)


class TestBasic(_Conformance, BasicSamplerTestCase):
    """All of it."""


class TestSingleOnly(_Conformance, SingleOnlySamplerTestCase):
    """All of it."""


class TestRelative(_Conformance, RelativeSamplerTestCase):
    """Three tests hand parameters x and y to `sample_relative` that are no coefficients of any constraint.

    What a search of coefficients samples together is tested in this file instead.
    """

    test_sample_relative_numerical = None
    test_sample_relative_categorical = None
    test_sample_relative_mixed = None
