"""Metrics that keep what they see, to be compared with removed networks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from checks import candidates
from torch import nn
from torch.utils import _pytree as pytree

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, ProjectedSampler, SLSQPSampler
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_softprune.testing import RandomNetwork


class Seen:
    """A metric that keeps what networks return on some inputs."""

    def __init__(self, *inputs: tuple[Any, ...]) -> None:
        self.inputs = inputs
        self.outputs: list[Any] = []

    def __call__(self, model: nn.Module) -> float:
        with torch.no_grad():
            self.outputs = [model(*each) for each in self.inputs]
        return 0.0


def evaluate(objective: PruningObjective, c: Mapping[str, float]) -> float:
    """Return the value of one candidate."""
    value = objective(optuna.trial.FixedTrial(dict(c)))
    assert isinstance(value, float)
    return value


def leaves(outputs: Any) -> list[Any]:
    found: list[Any] = pytree.tree_leaves(outputs)
    return found


def assert_like_the_removed_network(space: PruningSpace, inputs: Sequence[tuple[Any, ...]]) -> PruningObjective:
    """Values are those of the removed network; those that are looked up are bit for bit those that were computed."""
    seen = Seen(*inputs)
    objective = PruningObjective(space, seen)
    some = list(candidates(space, 4))
    first: list[Any] = []
    for again in (False, True):
        for i, c in enumerate(some):
            evaluate(objective, c)
            small = space.prune(c).eval()
            with torch.no_grad():
                expected = leaves([small(*each) for each in inputs])
            got = leaves(seen.outputs)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
            if again:
                torch.testing.assert_close(got, first[i], rtol=0, atol=0, equal_nan=True)
            else:
                first.append(got)
    return objective


def assert_random_network_is_like_the_removed(model: RandomNetwork) -> None:
    """Two batch sizes; a network with nothing to prune is passed over."""
    randomise(model)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    try:
        space = PruningSpace(model.eval(), (x,))
    except ValueError:
        return  # nothing to prune
    assert_like_the_removed_network(space, [(x,), (torch.cat([x, x.flip(1)]),)])


def samplers(space: PruningSpace, constraint: SparsityConstraint) -> list[optuna.samplers.BaseSampler]:
    """Return one sampler of each kind."""
    return [
        FeasibleGridSampler(space, constraint, levels=4 if len(space.groups) < 9 else 2),
        FiniteDifferenceSampler(constraint),
        SLSQPSampler(constraint),
        ProjectedSampler(optuna.samplers.RandomSampler(seed=0), constraint),
        ProjectedSampler(optuna.samplers.TPESampler(seed=0, n_startup_trials=3), constraint),
    ]


def assert_values_are_those_of_the_networks(model: RandomNetwork, trials: int = 6) -> int:
    """Search shortly by every sampler; return how many trials had the value of their network, evaluated whole."""
    randomise(model)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    try:
        space = PruningSpace(model.eval(), (x,))
        highest = space.sparsity(space.lattice.highest)
        constraint = SparsityConstraint(space, highest / 2, tolerance=highest / 3)
    except ValueError:
        return 0  # nothing to prune
    batch = torch.cat([x, x.flip(1), x * 2])

    def metric(network: nn.Module) -> float:
        with torch.no_grad():
            outputs = [each for each in leaves(network(batch)) if each.is_floating_point()]
        return float(sum(each.double().square().mean().item() for each in outputs))

    objective, right = PruningObjective(space, metric, constraint), 0
    for sampler in samplers(space, constraint):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=trials)
        for trial in study.trials:
            assert trial.state != optuna.trial.TrialState.FAIL, trial.user_attrs
            if trial.state == optuna.trial.TrialState.COMPLETE:
                whole = metric(space.prune(space.coefficients(trial.params)).eval())
                assert trial.value == pytest.approx(whole, rel=1e-4, abs=1e-6), (type(sampler), trial.params)
                right += 1
        assert metric(objective.best_model(study).eval()) == pytest.approx(study.best_value, rel=1e-4, abs=1e-6)
    return right


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return randomise(nn.Sequential(*layers)).eval()  # type: ignore[return-value]
