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
from test_constraint import space_of

from optuna_softprune import SparsityConstraint
from optuna_softprune.samplers import ProjectedSampler, baselines, sensitivity_start, sensitivity_sweep
from optuna_softprune.testing import analytic_problem

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


def test_sensitivity_finds_the_start_of_a_problem_whose_groups_do_not_act_on_each_other() -> None:
    """Losses that are k_g c_g^2 are what it assumes: its start is their optimum, known in closed form."""
    sizes = (64, 48, 32, 80, 56)
    problem = analytic_problem("from zero", sizes, condition=20)
    problem = dataclasses.replace(problem, center=np.zeros(len(sizes)))
    constraint = problem.constraint

    def objective(trial: optuna.Trial) -> float:
        return -problem.loss(
            np.array(
                [trial.suggest_float(n, 0, high) for n, high in zip(constraint.names, constraint.highest, strict=True)]
            )
        )

    study = optuna.create_study(direction="maximize")
    with pytest.raises(ValueError, match=r"Expected the 6 candidates of `sensitivity_sweep.* but 6 are not"):
        sensitivity_start(study, constraint)
    for c in sensitivity_sweep(constraint):
        study.enqueue_trial(c)
    study.optimize(objective, n_trials=6)
    start = sensitivity_start(study, constraint)
    assert constraint.violation(np.array(list(start.values()))) <= 0
    assert start == dict(zip(constraint.names, constraint.project(problem.optimum).tolist(), strict=True))
    with pytest.raises(ValueError, match=r"Expected `share` to be in \(0, 1\]"):
        sensitivity_sweep(constraint, share=0)
