"""A metric that reports batch by batch, with Optuna's pruners."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, SLSQPSampler
from optuna_softprune.storage import claim_of
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Callable

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
BATCHES = X.split(4)
MODEL = randomise(
    nn.Sequential(
        nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 6)
    )
)
SPACE = PruningSpace(MODEL, (X,))
CONSTRAINT = SparsityConstraint(SPACE, 0.4, tolerance=0.03)
pruners = pytest.mark.parametrize(
    "pruner",
    [lambda: optuna.pruners.MedianPruner(n_startup_trials=2), optuna.pruners.WilcoxonPruner],
    ids=["median", "wilcoxon"],
)


def by_batches(model: nn.Module, trial: optuna.trial.BaseTrial) -> float:
    errors = []
    for step, batch in enumerate(BATCHES):
        with torch.no_grad():
            errors.append((model(batch) - MODEL(batch)).square().mean().item())
        trial.report(errors[-1], step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(errors))


@pruners
def test_bad_candidates_are_stopped_and_have_no_value(pruner: Callable[[], optuna.pruners.BasePruner]) -> None:
    study = optuna.create_study(pruner=pruner(), sampler=optuna.samplers.RandomSampler(seed=1))
    objective = PruningObjective(SPACE, by_batches, directions=("minimize",))
    shares = (0.3, 0.2, 0.1, 1.0, 0.3, 1.0)  # better and better, then bad
    for share in shares:
        study.enqueue_trial({name: share * found.high for name, found in SPACE.distributions.items()})
    study.optimize(objective, n_trials=6)
    # A stopped candidate that is asked for again is measured again: it has no value that could be looked up.
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["PRUNED", "COMPLETE", "PRUNED"]
    # What is looked up is reported again: pruners compare trials by it.
    assert study.trials[4].intermediate_values == study.trials[0].intermediate_values
    assert "softprune:candidate" not in study.trials[3].user_attrs
    assert objective.best_model(study)(X).shape == X.shape
    assert math.isfinite(float(objective(optuna.trial.FixedTrial(study.trials[0].params))))  # type: ignore[arg-type]


@pruners
@pytest.mark.parametrize("kind", [FiniteDifferenceSampler, SLSQPSampler])
def test_gradient_samplers_go_on_where_probes_are_stopped(
    pruner: Callable[[], optuna.pruners.BasePruner],
    kind: type[FiniteDifferenceSampler] | type[SLSQPSampler],
) -> None:
    study = optuna.create_study(pruner=pruner(), sampler=kind(CONSTRAINT))
    study.optimize(PruningObjective(SPACE, by_batches, CONSTRAINT, directions=("minimize",)), n_trials=40)
    claims = {trial.number: claim_of(trial) for trial in study.trials}
    stopped = {claims[t.number].point for t in study.get_trials(states=(TrialState.PRUNED,))}  # type: ignore[union-attr]
    complete = {claims[t.number].point for t in study.get_trials(states=(TrialState.COMPLETE,))}  # type: ignore[union-attr]
    assert stopped
    assert not stopped & complete  # never asked for again
    assert len(stopped) + len(complete) == 40
    assert study.best_trial.state == TrialState.COMPLETE


@pruners
def test_grid_is_whole_with_stopped_points(pruner: Callable[[], optuna.pruners.BasePruner]) -> None:
    sampler = FeasibleGridSampler(SPACE, CONSTRAINT, levels=9)
    study = optuna.create_study(pruner=pruner(), sampler=sampler)
    study.optimize(PruningObjective(SPACE, by_batches, CONSTRAINT, directions=("minimize",)))
    counts = Counter(tuple(trial.params.values()) for trial in study.trials)
    assert set(counts.values()) == {1}
    assert len(counts) == len(sampler)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_trial_is_given_to_metrics_that_name_it() -> None:
    seen = []

    def keyword(model: nn.Module, *, trial: optuna.trial.BaseTrial | None = None) -> float:
        seen.append(trial)
        return model(X).mean().item()

    class Metric:
        def __call__(self, model: nn.Module, trial: optuna.trial.BaseTrial) -> float:
            return keyword(model, trial=trial)

    def scaled(scale: float, model: nn.Module, trial: optuna.trial.BaseTrial) -> float:
        return scale * keyword(model, trial=trial)

    def another(model: nn.Module, number: int = 3) -> float:
        return keyword(model)

    for metric in (keyword, Metric(), functools.partial(scaled, 2.0), another):
        study = optuna.create_study(direction="maximize")
        study.optimize(PruningObjective(SPACE, metric), n_trials=1)
        dense, evaluated = seen
        if metric is another:
            assert dense is evaluated is None
        else:
            assert isinstance(dense, optuna.trial.FixedTrial)
            assert isinstance(evaluated, optuna.Trial)
        seen.clear()
