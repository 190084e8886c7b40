"""A search with reconstruction: each value is the metric of exactly the refitted network, whatever came before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from checks import candidates
from evaluations import assert_like_the_removed_network, evaluate, mlp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
    StudyMismatchError,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines
from optuna_softprune.testing import ZOO, randomise
from optuna_softprune.testing.strategies import random_networks

if TYPE_CHECKING:
    from optuna_softprune.testing import RandomNetwork

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
CALIBRATION = Calibration([(X[:20],), (X[20:],)])
DEEP = mlp(6, 23, 17, 9, 5)
PLAIN = PruningSpace(DEEP, (X,))
REFITTED = PruningSpace(
    DEEP, (X,), importance=ReconstructionError(CALIBRATION), reconstruction=LeastSquares(CALIBRATION)
)


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return model(X).double().square().sum().item()  # type: ignore[no-any-return]


def closeness(model: nn.Module) -> float:
    with torch.no_grad():
        return -(model(X) - DEEP(X)).double().square().mean().item()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", [n for n in ZOO if n.groups], ids=lambda network: network.name)
def test_values_are_those_of_the_refitted_network(network: Any) -> None:
    args = network.inputs()
    calibration = Calibration([args, args])
    space = PruningSpace(randomise(network.build()).eval(), args, reconstruction=LeastSquares(calibration))
    assert_like_the_removed_network(space, [args])


def assert_random_network_is_like_the_refitted(model: RandomNetwork) -> None:
    randomise(model)
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    try:
        space = PruningSpace(model.eval(), (x,), reconstruction=LeastSquares(Calibration([(x,)])))
    except ValueError:
        return  # nothing to prune
    assert_like_the_removed_network(space, [(x,), (torch.cat([x, x.flip(1)]),)])


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(random_networks())
def test_values_of_random_networks_are_those_of_the_refitted_network(model: RandomNetwork) -> None:
    assert_random_network_is_like_the_refitted(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(random_networks())
def test_values_of_a_hundred_random_networks_are_those_of_the_refitted_network(model: RandomNetwork) -> None:
    assert_random_network_is_like_the_refitted(model)


@pytest.mark.parametrize("space", [PLAIN, REFITTED], ids=["sliced", "refitted"])
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)), budget=st.sampled_from([2**30, 3000, 400]))
def test_values_do_not_depend_on_what_came_before(space: PruningSpace, order: list[int], budget: int) -> None:
    some = list(candidates(space, 12))
    alone = [evaluate(PruningObjective(space, loss), c) for c in some]
    objective = PruningObjective(space, loss, cache_bytes=budget)
    assert [evaluate(objective, some[i]) for i in order] == [alone[i] for i in order]


@pytest.mark.parametrize("space", [PLAIN, REFITTED], ids=["sliced", "refitted"])
def test_threads_find_the_same_values(space: PruningSpace) -> None:
    some = list(candidates(space, 60))
    objectives = [PruningObjective(space, loss, reuse=False) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda c: evaluate(objectives[0], c), some * 2))
    assert found == [evaluate(objectives[1], c) for c in some] * 2


def test_search_finds_the_network_that_ships() -> None:
    constraint = SparsityConstraint(REFITTED, 0.5, tolerance=0.03)
    objective = PruningObjective(REFITTED, closeness, constraint)
    study = optuna.create_study(direction="maximize", sampler=FiniteDifferenceSampler(constraint))
    for c in baselines(REFITTED, constraint).values():
        study.enqueue_trial(c)
    study.optimize(objective, n_trials=30)
    best = objective.best_model(study)
    assert closeness(best) == pytest.approx(study.best_value, rel=1e-5)
    c = REFITTED.coefficients(study.best_trial.params)
    unfitted = PruningSpace(DEEP, (X,), importance=ReconstructionError(CALIBRATION))
    assert study.best_value > closeness(unfitted.prune(c))


def test_refitted_network_trains_as_any_other() -> None:
    def trained(model: nn.Module) -> float:
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        before = closeness(model)
        for _ in range(5):
            optimizer.zero_grad()
            (model(X) - DEEP(X).detach()).square().mean().backward()
            optimizer.step()
        assert closeness(model) >= before
        return closeness(model)

    c = {group.name: 0.5 for group in REFITTED.groups}
    value = evaluate(PruningObjective(REFITTED, trained), c)
    assert value == pytest.approx(trained(REFITTED.prune(c)), rel=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        None,
        LeastSquares(CALIBRATION, ridge=1e-2),
        LeastSquares(Calibration([(X[1:],)])),
    ],
    ids=["none", "ridge", "data"],
)
def test_study_is_not_continued_with_another_reconstruction(other: LeastSquares | None) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(PruningObjective(REFITTED, loss), n_trials=1)
    space = PruningSpace(DEEP, (X,), importance=ReconstructionError(CALIBRATION), reconstruction=other)
    with pytest.raises(StudyMismatchError, match=r"they differ in their reconstruction: the study has \"LeastSquares"):
        study.optimize(PruningObjective(space, loss), n_trials=1)
    assert len(study.trials) == 1 or study.trials[0].value is not None


def test_same_data_and_weights_give_the_same_bits() -> None:
    again = PruningSpace(
        DEEP,
        (X,),
        importance=ReconstructionError(Calibration([(X[:20].clone(),), (X[20:].clone(),)])),
        reconstruction=LeastSquares(Calibration([(X[:20].clone(),), (X[20:].clone(),)])),
    )
    assert again.fingerprint == REFITTED.fingerprint
    c = {group.name: 0.5 for group in REFITTED.groups}
    one, other = REFITTED.prune(c).state_dict(), again.prune(c).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(np.array_equal(a, b) for a, b in zip(again.order, REFITTED.order, strict=True))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "shared"])
def test_lower_precision_of_the_metric_does_not_reach_weights_and_statistics(whole: bool) -> None:
    network = next(n for n in ZOO if n.name == "residual")
    args = (torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    model = randomise(network.build()).eval()
    space = PruningSpace(model, args, reconstruction=LeastSquares(Calibration([args])))
    seen: list[Any] = []

    def metric(small: nn.Module) -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            seen.append(small(*args))
            seen.append([tensor.clone() for tensor in small.state_dict().values()] if whole else [])
        return 0.0

    c = {group.name: 0.5 for group in space.groups}
    evaluate(PruningObjective(space, metric), c)
    small = space.prune(c)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(seen[-2], small(*args), rtol=1e-2, atol=1e-2)
    if whole:
        torch.testing.assert_close(seen[-1], list(small.state_dict().values()), rtol=1e-5, atol=1e-6)


def test_what_a_metric_writes_into_its_network_reaches_no_other() -> None:
    x = torch.randn(100, 5)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = PruningSpace(model, (x[:1],), reconstruction=LeastSquares(Calibration([(x,)])))

    def spoiling(network: nn.Module) -> float:
        with torch.no_grad():
            value = network(x).square().mean().item()
            for parameter in network.parameters():
                parameter.fill_(50.0)
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    objective = PruningObjective(space, spoiling, reuse=False)
    for _ in range(2):
        study.enqueue_trial({"0": 0.5})
        study.optimize(objective, n_trials=1)
    assert study.trials[0].value == study.trials[1].value
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
