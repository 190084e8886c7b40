"""Projected samplers and baselines."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, SingleOnlySamplerTestCase
from scipy.optimize import minimize
from test_constraint import space_of

from optuna_softprune import SparsityConstraint
from optuna_softprune.numerics import curves_alone, least_sum
from optuna_softprune.samplers import ProjectedSampler, additive_start, additive_sweep, baselines
from optuna_softprune.testing import analytic_problem, problem_of_many_groups

if TYPE_CHECKING:
    from collections.abc import Callable

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:.*set_system_attr.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*greenlet.*:UserWarning"),
]
SPACE = space_of(6, 12, 10, 8, 4)
CONSTRAINT = SparsityConstraint(SPACE, 0.5, tolerance=0.02)


def projected(base: optuna.samplers.BaseSampler) -> ProjectedSampler:
    return ProjectedSampler(base, CONSTRAINT)


BASES: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
    "random": lambda: optuna.samplers.RandomSampler(seed=0),
    "tpe": lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
    "tpe univariate": lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=5, multivariate=False),
    "qmc": lambda: optuna.samplers.QMCSampler(seed=0),
    "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=0, population_size=8),
    "cma-es": lambda: optuna.samplers.CmaEsSampler(seed=0, n_startup_trials=3),
    "gp": lambda: optuna.samplers.GPSampler(seed=0, n_startup_trials=5),
}


def search(sampler: optuna.samplers.BaseSampler, trials: int = 25, seen: list[Any] | None = None) -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        c = SPACE.suggest(trial)
        if seen is not None:
            seen.append(c)
        return sum(value**2 for value in c.values()) + 0.01 * trial.suggest_int("own", 1, 3)

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return study


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_every_candidate_is_a_feasible_lattice_point(base: Callable[[], optuna.samplers.BaseSampler]) -> None:
    study = search(projected(base()), 15)
    for trial in study.trials:
        c = {name: trial.params[name] for name in SPACE.distributions}
        assert SPACE.snap(c) == c
        assert CONSTRAINT.violation(c) <= 0
        assert trial.params["own"] in (1, 2, 3)


def test_candidates_are_drawn_again_rather_than_repeated_when_a_search_is_resumed() -> None:
    seen: list[dict[str, float]] = []
    study = search(projected(optuna.samplers.TPESampler(seed=0)), 8, seen)
    study.sampler = projected(optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: float(bool(seen.append(SPACE.suggest(trial)))), n_trials=8)
    assert len({tuple(c.values()) for c in seen}) == 16


def test_same_seed_gives_the_same_search() -> None:
    one, two = ([t.params for t in search(projected(BASES["tpe"]())).trials] for _ in range(2))
    assert one == two


def test_sampler_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(projected(BASES["random"]())))
    assert search(again, 3).trials[0].params == search(projected(BASES["random"]()), 3).trials[0].params


@pytest.mark.parametrize(
    ("arguments", "message"), [((None, CONSTRAINT), "base"), ((BASES["tpe"](), 0.5), "constraint")]
)
def test_wrong_arguments_are_said(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"Expected `{message}` to be"):
        ProjectedSampler(*arguments)


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: projected(optuna.samplers.TPESampler(n_startup_trials=2))


class TestSingleOnly(SingleOnlySamplerTestCase):
    """With a base that refuses several objectives; what `ProjectedSampler` refuses is what its base refuses."""

    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: projected(optuna.samplers.CmaEsSampler())


def test_baselines_are_feasible_and_differ() -> None:
    from test_importance import Given

    # One group with equal scores, one with small ones, one with scores far apart.
    space = space_of(6, 12, 10, 8, 4, importance=Given([np.full(12, 5.0), np.linspace(1, 2, 10), np.arange(8) ** 2]))
    found = baselines(space, CONSTRAINT)
    assert list(found) == ["uniform", "local norm", "global norm", "nearest", "random"]
    assert all(CONSTRAINT.violation(c) <= 0 and space.snap(c) == c for c in found.values())
    uniform = np.array(list(found["uniform"].values()))
    assert uniform.max() - uniform.min() < 0.15
    assert len({tuple(c.values()) for c in found.values()}) == 5
    assert baselines(space, CONSTRAINT) == found


def test_global_norm_takes_from_the_group_with_small_scores() -> None:
    from test_importance import Given

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = [np.linspace(1, 2, 12), np.linspace(0.1, 0.2, 10), np.linspace(1, 2, 8)]
        space = space_of(6, 12, 10, 8, 4, importance=Given(scores))
    c = baselines(space, SparsityConstraint(space, 0.5, tolerance=0.02))["global norm"]
    assert c["2"] >= 0.8
    assert c["0"] == c["4"] == 0


def swept(constraint: SparsityConstraint, loss: Callable[[np.ndarray[Any, Any]], float], levels: int) -> optuna.Study:
    """Return a study that maximises -loss, in which the sweep is complete."""
    sweep = additive_sweep(constraint, levels=levels)
    study = optuna.create_study(direction="maximize")
    for c in sweep:
        study.enqueue_trial(c)
    bounds = list(zip(constraint.names, constraint.highest.tolist(), strict=True))
    study.optimize(
        lambda trial: -loss(np.array([trial.suggest_float(name, 0, high) for name, high in bounds])),
        n_trials=len(sweep),
    )
    return study


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_additive_start_is_the_optimum_where_groups_do_not_act_on_each_other(target: float) -> None:
    """Of losses k_g c_g^2 the optimum is known in closed form; the sweep was made for another target."""
    sizes = (64, 48, 32, 80, 56) * 4
    drawn = analytic_problem("drawn", sizes, target=target, condition=20)
    problem = dataclasses.replace(drawn, center=np.zeros(len(sizes)))
    normal = problem.constraint.gradient(problem.center)
    optimum = minimize(
        problem.exact,
        np.full(len(sizes), target),
        jac=lambda c: problem.hessian @ c,
        method="SLSQP",
        bounds=[(0, high) for high in problem.constraint.highest],
        constraints={"type": "ineq", "fun": lambda c: normal @ c - (target - 0.005), "jac": lambda c: normal},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    other = analytic_problem("from zero", sizes, target=0.6, condition=20).constraint
    study = swept(other, problem.loss, 4)
    assert len(study.trials) == 81
    start = np.array(list(additive_start(study, problem.constraint).values()))
    assert problem.constraint.violation(start) <= 0
    assert problem.exact(start) == pytest.approx(optimum.fun, rel=2e-3)  # what whole units allow


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("target", [0.3, 0.6])
def test_additive_start_is_the_best_of_all_points_of_a_small_lattice(seed: int, target: float) -> None:
    """With every level measured the curves are exact; they jump, and counts are products of neighbouring widths."""
    constraint = SparsityConstraint(SPACE, target, tolerance=0.02)
    random = np.random.default_rng(seed)
    tables = [np.cumsum([0.0, *random.exponential(size=size - 1) ** 3]) for size in constraint.sizes]

    def loss(c: np.ndarray[Any, Any]) -> float:
        removed = np.rint(c * constraint.sizes).astype(int)
        return float(sum(table[units] for table, units in zip(tables, removed, strict=True)))

    sweep = [np.array(list(c.values())) for c in additive_sweep(constraint, levels=11)]
    assert len(sweep) == 1 + sum(size - 1 for size in constraint.sizes)
    start = np.array(list(additive_start(swept(constraint, loss, 11), constraint).values()))
    grid = np.stack(np.meshgrid(*(np.arange(n) / n for n in constraint.sizes)), -1).reshape(-1, len(constraint.sizes))
    best = min(map(loss, grid[constraint.violation(grid) <= 0]))
    assert constraint.violation(start) <= 0
    assert loss(start) == pytest.approx(best)


def test_additive_start_of_two_hundred_groups_that_do_not_act_on_each_other_is_the_optimum() -> None:
    """No lattice of so many points can be counted in floats; curves through four levels of a parabola are exact."""
    problem = problem_of_many_groups(200, chained=True)
    sweep = [np.array(list(c.values())) for c in additive_sweep(problem.constraint)]
    curves = curves_alone(problem.constraint, sweep, [problem.exact(c) for c in sweep])
    start = least_sum(problem.constraint, curves)
    assert problem.constraint.violation(start) <= 0
    assert problem.exact(start) <= 1.001 * problem.exact(problem.optimum)


def test_what_the_additive_start_misses_is_said() -> None:
    study = optuna.create_study()
    with pytest.raises(ValueError, match=r"Expected the candidates of `additive_sweep.*no trial of the dense network"):
        additive_start(study, CONSTRAINT)
    with pytest.raises(ValueError, match="Expected `levels` to be an integer of at least 1, but got 0"):
        additive_sweep(CONSTRAINT, levels=0)
