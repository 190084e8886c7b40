"""The largest sparsity under requirements: known optima, brute force, networks, crashes and workers."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from checks import counted_parameters
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState
from test_constraint import space_of
from test_tied import NETWORKS, autoencoder
from torch import nn

from optuna_softprune import PruningObjective, PruningSpace, Requirement, SparsityConstraint
from optuna_softprune.samplers import LargestSparsitySampler, baselines
from optuna_softprune.storage import claim_of
from optuna_softprune.testing import AnalyticProblem, problem_of_many_groups, randomise

if TYPE_CHECKING:
    from collections.abc import Callable

optuna.logging.set_verbosity(optuna.logging.ERROR)
PROBLEM = problem_of_many_groups(5, chained=True, interactions=True)


def sparsity(problem: AnalyticProblem, c: np.ndarray[Any, Any]) -> float:
    return problem.constraint.residual(c) + problem.constraint.target


def objective(problem: AnalyticProblem) -> Callable[[optuna.Trial], float]:
    """Return the sparsity, with the requirement that no more be lost than at the problem's optimum."""
    names, highest = problem.constraint.names, problem.constraint.highest

    def evaluated(trial: optuna.Trial) -> float:
        c = np.array([trial.suggest_float(n, 0, high) for n, high in zip(names, highest, strict=True)])
        trial.set_constraint("requirement:loss", problem.loss(c) - problem.exact(problem.optimum) - 1e-9)
        return sparsity(problem, c)

    return evaluated


def search(problem: AnalyticProblem, trials: int | None, **settings: Any) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=LargestSparsitySampler(problem.space))
    study.optimize(objective(problem), n_trials=trials, **settings)
    return study


def points(study: optuna.Study, *, extras: bool = True) -> list[tuple[int, ...]]:
    claims = [claim_of(trial) for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    return [claim.point for claim in claims if claim and (extras or claim.role != "extra")]


@pytest.mark.parametrize(("groups", "trials"), [(5, 40), (12, 70), (30, 120)])
@pytest.mark.parametrize("chained", [False, True])
def test_known_optima_are_found_within_half_a_percent(groups: int, trials: int, chained: bool) -> None:
    """The optimum's sparsity is the largest at which no more is lost than there."""
    problem = problem_of_many_groups(groups, chained=chained, interactions=chained)
    found = search(problem, trials).best_value
    best = sparsity(problem, problem.optimum)
    assert best - 0.005 <= found <= best


@pytest.mark.parametrize("seed", range(3))
def test_nothing_larger_is_left_where_everything_can_be_looked_at(seed: int) -> None:
    """To one unit of the smallest group, of a loss with interactions; the study stops by itself."""
    space = space_of(6, 7, 5, 8, 4)
    random = np.random.default_rng(seed)
    root = random.standard_normal((3, 3)) + 2 * np.eye(3)
    weights = np.abs(root @ root.T)

    def loss(c: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.einsum("...i,ij,...j", c, weights, c)

    everything = np.array(list(itertools.product(*(np.arange(g.size) / g.size for g in space.groups))))
    bound = float(np.quantile(loss(everything), 0.3))

    def evaluated(trial: optuna.Trial) -> float:
        c = space.array(space.suggest(trial))
        trial.set_constraint("requirement:loss", float(loss(c)) - bound)
        return space.sparsity(c)

    study = optuna.create_study(direction="maximize", sampler=LargestSparsitySampler(space))
    study.optimize(evaluated, n_trials=280)
    assert len(study.trials) < 120  # of 280 points
    best = space.sparsity(everything[loss(everything) <= bound]).max()
    found = space.array(study.best_trial.params)
    beside = everything[(np.rint((everything - found) * [g.size for g in space.groups]) >= 0).all(axis=1)]
    unit = np.unique(space.sparsity(beside))[1] - study.best_value
    assert best - unit < study.best_value <= best
    message = study.user_attrs["softprune:largest_sparsity:0"]["message"]
    assert message == "No network with one unit more removed meets the requirements."


def test_the_end_is_where_no_unit_more_can_be_removed() -> None:
    study = search(PROBLEM, None)
    sizes, constraint = np.array(PROBLEM.constraint.sizes), PROBLEM.constraint
    known = {claim.point: trial for trial in study.trials if (claim := claim_of(trial))}
    best = np.rint(np.array(list(study.best_trial.params.values())) * sizes).astype(int)
    for group, unit in enumerate(np.eye(len(sizes), dtype=int)):
        if best[group] < np.rint(constraint.highest[group] * sizes[group]):
            assert known[tuple((best + unit).tolist())].constraints["requirement:loss"] > 0
    assert study.trials[-1].state == TrialState.PRUNED  # which stops the study


def network(kind: str) -> tuple[nn.Module, PruningSpace, torch.Tensor]:
    build, shape, _ = NETWORKS[kind]
    model = randomise(build()).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return model, PruningSpace(model, (x,)), x


@pytest.mark.parametrize("kind", NETWORKS)
def test_smallest_network_that_is_close_enough(kind: str) -> None:
    model, space, x = network(kind)
    outputs = model(x).detach()

    def closeness(small: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"error": (small(x) - outputs).square().mean().item() / outputs.var().item()}

    requirement = Requirement("error", at_most=0.5)
    searched = PruningObjective(
        space, closeness, objectives=("parameters",), directions=("minimize",), requirements=(requirement,)
    )
    study = optuna.create_study(sampler=LargestSparsitySampler(space))
    for target in (0.1, 0.2, 0.4):
        for c in baselines(space, SparsityConstraint(space, target, tolerance=0.05)).values():
            study.enqueue_trial(c, skip_if_exists=True)
    heuristics = len(study.trials)
    study.optimize(searched, n_trials=heuristics + 60)
    before = [t for t in study.trials[:heuristics] if t.user_attrs["softprune:feasible"]]
    small = searched.best_model(study)
    assert closeness(small)["error"] <= 0.5 * (1 + 1e-5)
    assert counted_parameters(small) == study.best_value
    whole = space.parameters(dict.fromkeys(space.distributions, 0.0))
    assert study.best_value < min((t.value for t in before if t.value is not None), default=whole)


def test_multiply_accumulates_are_made_few() -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    model = randomise(nn.Sequential(*convolution, nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 4))).eval()
    x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x,))
    requirement = Requirement("metric", at_least=-0.3)
    outputs = model(x).detach()

    def closeness(small: nn.Module) -> float:
        with torch.no_grad():
            return -(small(x) - outputs).square().mean().item() / outputs.var().item()

    best = {}
    for of in ("parameters", "macs"):
        searched = PruningObjective(
            space, closeness, objectives=(of,), directions=("minimize",), requirements=(requirement,)
        )
        study = optuna.create_study(sampler=LargestSparsitySampler(space, of=of))
        study.optimize(searched, n_trials=60)
        best[of] = study.best_trial.user_attrs
    assert best["macs"]["softprune:macs"] < best["parameters"]["softprune:macs"]
    assert best["macs"]["softprune:parameters"] > best["parameters"]["softprune:parameters"]


def test_search_resumed_by_rebuilt_samplers_is_the_same() -> None:
    whole = search(PROBLEM, None)
    study = optuna.create_study(direction="maximize")
    while len(points(study)) < len(points(whole)):
        study.sampler = pickle.loads(pickle.dumps(LargestSparsitySampler(PROBLEM.space)))
        study.optimize(objective(PROBLEM), n_trials=23)
    assert points(study) == points(whole)


@pytest.mark.parametrize("jobs", [2, 4])
def test_threads_share_a_search_and_do_not_change_it(jobs: int) -> None:
    alone = search(PROBLEM, None)
    study = search(PROBLEM, None, n_jobs=jobs)
    assert len(set(points(study))) == len(points(study))
    shared = points(study, extras=False)
    extra = set(points(study)) - set(shared)
    assert set(shared) <= set(points(alone))
    assert set(points(alone)) <= set(shared) | extra
    assert study.best_value >= alone.best_value


def test_points_whose_metric_failed_are_passed_by() -> None:
    sizes = np.array(PROBLEM.constraint.sizes)

    def evaluated(trial: optuna.Trial) -> float:
        value = objective(PROBLEM)(trial)
        removed = np.rint(np.array(list(trial.params.values())) * sizes).sum()
        return float("nan") if removed % 4 == 1 else value

    study = optuna.create_study(direction="maximize", sampler=LargestSparsitySampler(PROBLEM.space))
    study.optimize(evaluated)
    failed = Counter(claim_of(t).point for t in study.trials if t.state == TrialState.FAIL)  # type: ignore[union-attr]
    assert len(failed) > 1
    assert set(failed.values()) == {2}
    assert study.best_value >= sparsity(PROBLEM, PROBLEM.optimum) - 0.01


def test_without_a_requirement_in_the_way_everything_goes() -> None:
    space = space_of(6, 7, 5, 8, 4)
    study = optuna.create_study(direction="maximize", sampler=LargestSparsitySampler(space))
    study.optimize(lambda trial: space.sparsity(space.suggest(trial)))
    assert study.best_value == space.sparsity(space.lattice.highest)


def test_widths_stay_those_that_hardware_likes() -> None:
    space = space_of(6, 20, 16, 24, 4, round_to=4)
    study = optuna.create_study(direction="maximize", sampler=LargestSparsitySampler(space))

    def evaluated(trial: optuna.Trial) -> float:
        c = space.array(space.suggest(trial))
        trial.set_constraint("requirement:loss", float((c**2).sum()) - 0.5)
        return space.sparsity(c)

    study.optimize(evaluated)
    assert all(kept % 4 == 0 for trial in study.trials if trial.params for kept in space.kept_units(trial.params))
    everything = np.array(
        list(itertools.product(*(each / g.size for each, g in zip(space.lattice.levels, space.groups, strict=True))))
    )
    allowed = (everything**2).sum(axis=1) <= 0.5
    assert study.best_value == space.sparsity(everything[allowed]).max()


MODEL = randomise(autoencoder()).eval()
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SPACE = PruningSpace(MODEL, (X,))
ENOUGH = (Requirement("metric", at_least=-1.0),)


def metric(small: nn.Module) -> float:
    return -(small(X) - MODEL(X)).square().mean().item()


@pytest.mark.parametrize(
    ("settings", "of", "message"),
    [
        (
            {"requirements": ENOUGH},
            "parameters",
            r"Expected an objective of 'sparsity' or 'parameters' .*got \['metric'\]",
        ),
        ({"objectives": ("macs",), "requirements": ENOUGH}, "parameters", r"of='parameters'`, but got \['macs'\]"),
        (
            {"objectives": ("parameters",), "requirements": ENOUGH},
            "macs",
            r"'macs' for a sampler .*got \['parameters'\]",
        ),
        ({"objectives": ("sparsity",)}, "parameters", "Expected an objective with requirements, but got none"),
        (
            {"objectives": ("sparsity",), "requirements": ENOUGH, "constraint": SparsityConstraint(SPACE, 0.5)},
            "parameters",
            r"Expected an objective without a constraint, but got \{.*0.5",
        ),
    ],
)
def test_another_objective_is_refused_before_anything_is_measured(
    settings: dict[str, Any], of: Any, message: str
) -> None:
    study = optuna.create_study(direction="maximize", sampler=LargestSparsitySampler(SPACE, of=of))
    with pytest.raises(ValueError, match=message):
        study.optimize(PruningObjective(SPACE, metric, **settings), n_trials=1)
    assert not study.get_trials(states=(TrialState.COMPLETE,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "flops"}, 'Expected `of` to be "parameters" or "macs", but got'),
        ({"step": 0.0}, r"Expected `step` to be in \(0, 1\]"),
        ({"rate": 2}, r"Expected `rate` to be in \(0, 1\]"),
        ({"seed": -1}, "Expected `seed` to be an integer of at least 0"),
    ],
)
def test_wrong_settings_are_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LargestSparsitySampler(SPACE, **settings)


class _Conformance:
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: LargestSparsitySampler(PROBLEM.space)


class TestBasic(_Conformance, BasicSamplerTestCase):
    """All of it."""


class TestSingleOnly(_Conformance, SingleOnlySamplerTestCase):
    """All of it."""


class TestRelative(_Conformance, RelativeSamplerTestCase):
    """Without three tests that hand parameters x and y to `sample_relative` that are no coefficients."""

    test_sample_relative_numerical = None
    test_sample_relative_categorical = None
    test_sample_relative_mixed = None
