"""Searches at one target after another: where they begin, what they leave, and how it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest
import torch
from test_constraint import SMALL
from test_tied import NETWORKS, autoencoder

from optuna_softprune import (
    InfeasibleTargetError,
    PruningObjective,
    PruningSpace,
    SparsityConstraint,
    open_storage,
    remaining_trials,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, additive_start, additive_sweep, warm_starts
from optuna_softprune.testing import randomise
from optuna_softprune.visualization import front, plot_front

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.storages import BaseStorage
    from torch import nn

optuna.logging.set_verbosity(optuna.logging.ERROR)
TARGETS = (0.3, 0.5)


def space_of(kind: str) -> tuple[nn.Module, PruningSpace]:
    build, shape, _ = NETWORKS[kind]
    model = randomise(build()).eval()
    return model, PruningSpace(model, (torch.randn(shape, generator=torch.Generator().manual_seed(0)),))


def walked(model: nn.Module, space: PruningSpace, storage: BaseStorage, trials: int) -> list[optuna.Study]:
    """Search at each target, as the README does, after a sweep in the first study."""
    (x,) = space.example[0]
    outputs = model(x).detach()

    def metric(small: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            error = (small(x) - outputs).square().mean().item()
        return {"closeness": -error, "widest": float(max(each.shape[0] for each in small.parameters()))}

    studies: list[optuna.Study] = []
    for target in TARGETS:
        constraint = SparsityConstraint(space, target, tolerance=0.03)
        study = optuna.create_study(
            study_name=f"front-{target}",
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            sampler=FiniteDifferenceSampler(constraint),
        )
        for c in warm_starts(studies, constraint) if studies else additive_sweep(constraint, levels=2):
            study.enqueue_trial(c, skip_if_exists=True)
        objective = PruningObjective(space, metric, constraint, objectives=("closeness",))
        study.optimize(objective, n_trials=remaining_trials(study, trials))
        studies.append(study)
    return studies


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_search_begins_at_what_others_found_and_ends_on_the_front(kind: str, tmp_path: Path) -> None:
    model, space = space_of(kind)
    storage = open_storage(tmp_path / "front.journal")
    trials = 2 * len(space.groups) + 6
    studies = walked(model, space, storage, trials)
    constraint = SparsityConstraint(space, TARGETS[1], tolerance=0.03)
    first, second = (study.trials[0] for study in studies)
    assert not any(first.params.values())  # the dense network
    assert space.coefficients(second.params) == constraint.project(space.coefficients(studies[0].best_params))
    assert space.coefficients(studies[1].trials[1].params) == additive_start(studies[0], constraint)
    assert studies[1].best_value >= max(trial.value for trial in studies[1].trials[:2] if trial.value is not None)

    found = front(studies[::-1])
    assert found.studies == tuple(study.study_name for study in studies)
    assert found.trials.tolist() == [study.best_trial.number for study in studies]
    assert found.metric.tolist() == [study.best_value for study in studies]
    for name, count in (("parameters", space.parameters), ("macs", space.macs), ("sparsity", space.sparsity)):
        assert found.values[name].tolist() == [count(space.coefficients(study.best_params)) for study in studies]
    assert found.dense["parameters"] == space.parameters(dict.fromkeys(space.distributions, 0.0))
    assert found.dense_metric == 0
    for against in ("parameters", "macs", "sparsity", "widest"):
        figure = plot_front(studies, against=against)
        assert isinstance(figure, go.Figure)
        np.testing.assert_array_equal(figure.data[0].x, found.values[against])
        np.testing.assert_array_equal(figure.data[0].y, found.metric)
        assert list(figure.data[1].x) == [found.dense[against]]

    before = [len(study.trials) for study in studies]
    assert [len(study.trials) for study in walked(model, space, storage, trials)] == before  # nothing is left to do


def test_what_says_nothing_is_passed_over_and_what_is_wrong_is_said() -> None:
    constraint = SparsityConstraint(SMALL, 0.4, tolerance=0.03)
    empty = optuna.create_study()
    assert warm_starts([empty], constraint) == []
    infeasible = optuna.create_study()
    infeasible.enqueue_trial(dict.fromkeys(SMALL.distributions, 0.0))
    infeasible.optimize(lambda trial: _violated(trial), n_trials=1)
    assert warm_starts([empty, infeasible], constraint) == []
    other = optuna.create_study()
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ValueError, match=r"the constraint's groups, but 'no-name-.* has no coefficient of 0, 2, 4"):
        warm_starts([other], constraint)
    with pytest.raises(ValueError, match=r"studies with one objective, but .* has 2"):
        warm_starts([optuna.create_study(directions=["minimize"] * 2)], constraint)
    with pytest.raises(TypeError, match="Expected `constraint` to be a `LatticeConstraint`"):
        warm_starts([empty], None)  # type: ignore[arg-type]


def test_what_fails_behind_a_sweep_is_no_missing_sweep() -> None:
    constraint = SparsityConstraint(SMALL, 0.4, tolerance=0.03)
    study = optuna.create_study()
    for c in additive_sweep(constraint, levels=1):
        study.enqueue_trial(c)
    study.optimize(_violated, n_trials=len(SMALL.groups) + 1)

    class Unattainable(SparsityConstraint):
        def project(self, c: Any) -> Any:
            raise InfeasibleTargetError("Expected a network within the tolerance.")

    constraint.__class__ = Unattainable
    with pytest.raises(InfeasibleTargetError, match="Expected a network within the tolerance"):
        warm_starts([study], constraint)


def _violated(trial: optuna.Trial) -> float:
    trial.set_constraint("sparsity", 0.1)
    return sum(SMALL.suggest(trial).values())


def test_fronts_of_nothing_and_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected at least one study, but got none"):
        front([])
    with pytest.raises(ValueError, match="holds no search of this package"):
        plot_front([optuna.create_study()])

    def searched(bias: float, target: float) -> optuna.Study:
        model = randomise(autoencoder()).eval()
        torch.nn.init.constant_(model[0].bias, bias)
        space = PruningSpace(model, (torch.ones(1, 6),))
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        constraint = SparsityConstraint(space, target, tolerance=0.03)
        if target < 0.9:
            study.enqueue_trial(constraint.project(dict.fromkeys(space.distributions, 0.0)))
        study.optimize(PruningObjective(space, _norm, constraint), n_trials=1)
        return study

    one = searched(0, 0.3)
    with pytest.raises(ValueError, match=r"Expected `against` to be one of \['metric', .*'macs'\], but got 'flops'"):
        plot_front([one], against="flops")
    with pytest.raises(ValueError, match=r"Expected a feasible trial in each study, but .* has none yet"):
        front([one, searched(0, 0.95)])
    with pytest.raises(ValueError, match=r"Expected studies of one network, but .* have others"):
        front([one, searched(1, 0.3)])


def _norm(small: nn.Module) -> float:
    with torch.no_grad():
        return -float(small(torch.ones(1, 6)).norm())
