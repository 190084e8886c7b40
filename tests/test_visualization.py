"""Figures and the numbers behind them, from a study alone."""

from __future__ import annotations

import builtins
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest
import torch
from checks import counted_macs, counted_parameters
from torch import nn

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint, visualization
from optuna_softprune.samplers import ProjectedSampler, baselines
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Callable

optuna.logging.set_verbosity(optuna.logging.ERROR)
PLOTS = [
    visualization.plot_coefficients,
    visualization.plot_sparsity,
    visualization.plot_convergence,
    visualization.plot_sensitivity,
    visualization.plot_widths,
]
NUMBERS = [
    visualization.coefficients,
    visualization.sparsity,
    visualization.convergence,
    visualization.sensitivity,
    visualization.widths,
]
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = randomise(nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 6))).eval()
SPACE = PruningSpace(MODEL, (X,))
CONSTRAINT = SparsityConstraint(SPACE, 0.4, tolerance=0.03)


def error(model: nn.Module) -> float:
    with torch.no_grad():
        return (model(X) - MODEL(X)).square().mean().item()


def searched() -> optuna.Study:
    """Return a study with a baseline, feasible trials and some that are not."""
    sampler = ProjectedSampler(optuna.samplers.RandomSampler(seed=0), CONSTRAINT)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    study.enqueue_trial(baselines(SPACE, CONSTRAINT)["uniform"], user_attrs={"softprune:role": "uniform"})
    objective = PruningObjective(SPACE, error, CONSTRAINT, directions=("minimize",))
    study.optimize(objective, n_trials=12)
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    study.optimize(objective, n_trials=8)
    return study


def test_coefficients_are_those_of_the_best_feasible_trials() -> None:
    study = searched()
    found = visualization.coefficients(study, count=5)
    feasible = sorted((t.value, t.number) for t in study.trials if t.user_attrs["softprune:feasible"])[:5]
    assert found.trials.tolist() == [number for _, number in feasible]
    assert found.trials[0] == study.best_trial.number
    np.testing.assert_array_equal(found.metric, [value for value, _ in feasible])
    assert found.groups == tuple(group.name for group in SPACE.groups)
    expected = [[SPACE.coefficients(study.trials[n].params)[g] for n in found.trials] for g in found.groups]
    np.testing.assert_allclose(found.coefficients, expected, atol=1e-12)


def test_sparsity_has_every_complete_trial() -> None:
    study = searched()
    found = visualization.sparsity(study)
    assert found.trials.tolist() == list(range(20))
    np.testing.assert_array_equal(found.metric, [trial.value for trial in study.trials])
    assert found.roles[0] == "uniform"
    assert found.dense == 0.0
    violated = [CONSTRAINT.violation(SPACE.coefficients(trial.params)) > 0 for trial in study.trials]
    np.testing.assert_array_equal(found.feasible, ~np.array(violated))
    assert any(violated)


def test_convergence_is_the_running_best_of_feasible_trials() -> None:
    study = searched()
    found = visualization.convergence(study)
    best, expected = np.inf, []
    for trial in study.trials:
        if trial.user_attrs["softprune:feasible"] and trial.value is not None:
            best = min(best, trial.value)
        expected.append(best)
    np.testing.assert_array_equal(found.best, expected)
    assert found.best[-1] == study.best_value


def test_sensitivity_is_the_best_in_each_range() -> None:
    study = searched()
    found = visualization.sensitivity(study, ranges=4)
    for g, group in enumerate(found.groups):
        for place, (low, high) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
            inside = [
                trial.value
                for trial in study.trials
                if trial.user_attrs["softprune:feasible"]
                and trial.value is not None
                and low <= SPACE.coefficients(trial.params)[group] + 1e-12 < high + (1e-9 if high == 1 else 0)
            ]
            np.testing.assert_equal(found.best[g, place], min(inside) if inside else np.nan)


@pytest.mark.parametrize("plot", PLOTS)
def test_figures_are_drawn_of_what_was_searched(plot: Callable[[optuna.Study], go.Figure]) -> None:
    study = searched()
    figure = plot(study)
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text
    assert len(figure.to_json()) > 500
    names = {trace.name for trace in figure.data}
    if plot is visualization.plot_sparsity:
        best = f"best: {study.best_value:.4g}"
        assert names == {"feasible", "infeasible", "uniform", best, "dense: 0"}
        assert figure.layout.xaxis.title.text == "parameters removed"
        band = figure.layout.shapes[0]
        assert (band.x0, band.x1) == pytest.approx((0.37, 0.43))
        low, high = figure.layout.xaxis.range
        assert low < 0  # the dense network is on it
        assert high > max(trial.user_attrs["softprune:sparsity"] for trial in study.trials)
    if plot is visualization.plot_convergence:
        assert names == {"feasible networks", "best so far", "uniform", "dense: 0"}
        assert figure.layout.xaxis.ticktext == ("1", "2", "5", "10", "20")
    if plot is visualization.plot_coefficients:
        assert figure.data[0].zmax == figure.data[0].z.max() < 1
        assert figure.data[0].colorbar.title.text == "fraction removed"
    if plot is visualization.plot_sensitivity:
        removed = visualization.coefficients(study).coefficients.max()
        edges = figure.data[0].x  # numbers, so that ticks that do not fit are left out
        assert edges[0] == 0
        assert removed <= edges[-1] / 100 < removed + 0.11
        assert len(edges) == figure.data[0].z.shape[1] + 1


def texts(figure: go.Figure) -> set[str]:
    """Return titles and names in a figure."""
    layout, bars = figure.layout, [trace.colorbar.title.text for trace in figure.data if "colorbar" in trace]
    axes = [layout.xaxis.title.text, layout.yaxis.title.text]
    return {layout.title.text, *axes, *bars, *(trace.name for trace in figure.data)} - {None}


def test_counts_are_written_out_and_the_best_of_them_is_the_fewest() -> None:
    dense = counted_macs(MODEL, (X,))
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(PruningObjective(SPACE, error, objectives=("macs",), directions=("minimize",)), n_trials=3)
    best = visualization.plot_sparsity(study)
    assert {f"dense: {dense:,.0f}", f"best: {study.best_value:,.0f}", "MACs"} <= texts(best)
    assert "Fewest MACs so far" in texts(visualization.plot_convergence(study))
    assert {"Fewest MACs by how much of each group is removed", "fewest MACs"} <= texts(
        visualization.plot_sensitivity(study)
    )
    assert "What the 3 networks with the fewest MACs leave out" in texts(visualization.plot_coefficients(study))
    widths = f"Widths with the fewest MACs (trial {study.best_trial.number}, {study.best_value:,.0f})"
    assert widths in texts(visualization.plot_widths(study))
    assert "error against MACs" in texts(visualization.plot_front([searched()], against="macs"))


def test_a_first_trial_is_seen_and_the_dense_network_beside_it() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(PruningObjective(SPACE, lambda model: -error(model), CONSTRAINT), n_trials=1)
    study.optimize(PruningObjective(SPACE, lambda model: -error(model), CONSTRAINT), n_trials=0)
    drawn = {trace.name: trace for trace in visualization.plot_convergence(study).data}
    assert len(drawn["dense: 0"].x) == 2  # not "-0"
    assert drawn["dense: 0"].x[0] < drawn["dense: 0"].x[1]
    assert "markers" in drawn["best so far"].mode


def test_a_float_metric_is_called_as_its_function() -> None:
    study = searched()
    for numbers in NUMBERS:
        assert numbers(study).name == "error"
    study = optuna.create_study(direction="minimize")
    study.optimize(PruningObjective(SPACE, lambda m: error(m), directions=("minimize",)), n_trials=1)
    assert visualization.sparsity(study).name == "metric"
    study = optuna.create_study(direction="minimize")
    study.optimize(PruningObjective(SPACE, functools.partial(error), directions=("minimize",)), n_trials=1)
    assert visualization.sparsity(study).name == "error"


def test_counts_of_the_dense_network_are_known_without_the_model() -> None:
    objective = PruningObjective(
        SPACE, error, objectives=("sparsity", "parameters", "macs"), directions=("maximize", "minimize", "minimize")
    )
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.optimize(objective, n_trials=1)
    dense = {"sparsity": 0.0, "parameters": counted_parameters(MODEL), "macs": counted_macs(MODEL, (X,))}
    assert {name: visualization.sparsity(study, metric=name).dense for name in dense} == dense
    assert {name: visualization.convergence(study, metric=name).dense for name in dense} == dense


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_study_that_cannot_be_drawn_is_said(numbers: Callable[..., Any]) -> None:
    study = optuna.create_study()
    with pytest.raises(ValueError, match=r"Expected a study of a `PruningObjective`, but"):
        numbers(study)
    objective = PruningObjective(
        SPACE, lambda m: {"error": error(m)}, objectives=("error", "parameters"), directions=("minimize", "minimize")
    )
    front = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    front.optimize(objective, n_trials=3)
    with pytest.raises(ValueError, match=r"Expected `metric` to say which of the objectives"):
        numbers(front)
    with pytest.raises(ValueError, match=r"Expected `metric` to be one of"):
        numbers(front, metric="psnr")
    assert numbers(front, metric="parameters").name == "parameters"


def test_missing_plotly_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    study = searched()
    monkeypatch.setattr(builtins, "__import__", without)
    for plot in PLOTS:
        with pytest.raises(ImportError, match=r"pip install \"optuna-softprune\[visualization\]\""):
            plot(study)
    for numbers in NUMBERS:
        numbers(study)


def test_widths_are_those_of_the_best_network_with_the_parameters_of_each_group() -> None:
    study = searched()
    found = visualization.widths(study)
    small = SPACE.prune(SPACE.coefficients(study.best_trial.params))
    assert found.groups == tuple(group.name for group in SPACE.groups)
    assert (found.trial, found.metric) == (study.best_trial.number, study.best_value)
    for model, units, parameters in (
        (MODEL, found.dense, found.dense_parameters),
        (small, found.kept, found.parameters),
    ):
        first, second, third = (model.get_submodule(name) for name in "024")
        assert units.tolist() == [len(first.bias), len(second.bias)]
        assert parameters is not None
        with_both = first.weight.numel() + first.bias.numel() + second.weight.numel()
        assert parameters.tolist() == [
            with_both,
            second.weight.numel() + second.bias.numel() + third.weight.numel(),
        ]
    bars = visualization.plot_widths(study).data
    assert [bar.name for bar in bars] == ["dense", "kept"] * 2
    assert bars[0].text[0] == f"{found.kept[0]} of {found.dense[0]}"
