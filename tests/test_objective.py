"""The objective on a study: values, constraints, what is stored, and what is refused."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

from optuna_softprune import (
    ActivationEnergy,
    Calibration,
    Magnitude,
    PruningObjective,
    PruningSpace,
    Requirement,
    SparsityConstraint,
    StudyMismatchError,
)
from optuna_softprune.samplers import ProjectedSampler
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Callable

optuna.logging.set_verbosity(optuna.logging.ERROR)
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0, width: int = 12) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 10), nn.Tanh(), nn.Linear(10, 6))
    randomise(model, seed)
    return model


MODEL = network()
SPACE = PruningSpace(MODEL, (X,))
CONSTRAINT = SparsityConstraint(SPACE, 0.4, tolerance=0.03)


def quality(model: nn.Module) -> float:
    with torch.no_grad():
        return -(model(X) - MODEL(X)).square().mean().item()


def both(model: nn.Module) -> dict[str, float]:
    return {"quality": quality(model), "largest": model(X).abs().max().item()}


def study_of(sampler: optuna.samplers.BaseSampler | None = None, **settings: Any) -> optuna.Study:
    settings.setdefault("direction", "maximize") if "directions" not in settings else None
    base = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(sampler=sampler or ProjectedSampler(base, CONSTRAINT), **settings)


def test_value_is_the_metric_of_exactly_the_network_that_the_params_snap_to() -> None:
    study = study_of(optuna.samplers.RandomSampler(seed=0))
    study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=8)
    for trial in study.trials:
        c = SPACE.coefficients(trial.params)
        assert trial.value == quality(SPACE.prune(c))
        assert trial.constraints["sparsity"] == pytest.approx(abs(SPACE.sparsity(c) - 0.4) - 0.03)
        attributes = trial.user_attrs
        assert attributes["softprune:sparsity"] == SPACE.sparsity(c)
        assert attributes["softprune:parameters"] == SPACE.parameters(c)
        assert attributes["softprune:macs"] == SPACE.macs(c)
        assert attributes["softprune:feasible"] == int(CONSTRAINT.violation(c) <= 0)
        assert attributes["softprune:role"] == "candidate"
        record = attributes["softprune:candidate"]
        assert record["kept"] == list(SPACE.kept_units(c))
        assert record["metrics"] == {"metric": trial.value}
        assert trial.system_attrs["constraints"] == [trial.constraints["sparsity"]]


def test_best_model_has_the_value_of_the_best_feasible_trial() -> None:
    study = study_of()
    objective = PruningObjective(SPACE, quality, CONSTRAINT)
    study.optimize(objective, n_trials=10)
    small = objective.best_model(study)
    assert quality(small) == study.best_value
    assert (
        abs(1 - sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in MODEL.parameters()) - 0.4) <= 0.03
    )


def test_study_keeps_what_plots_and_reports_need() -> None:
    study = study_of()
    objective = PruningObjective(
        SPACE, both, CONSTRAINT, objectives=("quality",), requirements=(Requirement("largest", at_most=1e3),)
    )
    study.optimize(objective, n_trials=1)
    held = study.user_attrs
    assert held["softprune:schema"] == 1
    assert held["softprune:groups"] == {"0": 12, "2": 10}
    assert held["softprune:components"] == ["0", "2", "4"]
    assert held["softprune:constraint"] == {"target": 0.4, "tolerance": 0.03, "of": "parameters"}
    assert held["softprune:dense"] == both(MODEL)
    assert set(held["softprune:versions"]) == {"optuna_softprune", "torch", "scipy", "python"}
    assert all(key.startswith("softprune:") for key in held)


def test_one_objective_serves_several_studies() -> None:
    metric, calls = counted()
    objective = PruningObjective(SPACE, metric, CONSTRAINT)
    for evaluations in (2, 3):  # the dense network once, and one candidate in each study
        study = study_of()
        study.optimize(objective, n_trials=1)
        assert len(calls) == evaluations
        assert study.user_attrs["softprune:dense"] == {"metric": quality(MODEL)}


def test_requirements_become_constraints() -> None:
    requirement = Requirement("quality", at_least=-0.3)
    objective = PruningObjective(SPACE, both, CONSTRAINT, objectives=("largest",), requirements=(requirement,))
    study = study_of()
    study.optimize(objective, n_trials=12)
    for trial in study.trials:
        value = trial.user_attrs["softprune:candidate"]["metrics"]["quality"]
        assert trial.constraints["requirement:quality"] == pytest.approx((-0.3 - value) / 0.3)
        assert trial.user_attrs["softprune:feasible"] == int(value >= -0.3)
        assert len(trial.system_attrs["constraints"]) == 2
    assert {trial.user_attrs["softprune:feasible"] for trial in study.trials} == {0, 1}
    assert study.best_trial.user_attrs["softprune:feasible"] == 1


def test_pareto_front_of_quality_and_size() -> None:
    objective = PruningObjective(
        SPACE, quality, objectives=("metric", "parameters", "sparsity"), directions=("maximize", "minimize", "maximize")
    )
    study = study_of(optuna.samplers.RandomSampler(seed=0), directions=["maximize", "minimize", "maximize"])
    study.optimize(objective, n_trials=6)
    for trial in study.trials:
        c = SPACE.coefficients(trial.params)
        assert trial.values == [quality(SPACE.prune(c)), SPACE.parameters(c), SPACE.sparsity(c)]
    with pytest.raises(ValueError, match=r"got several, so there is no best trial: choose one of `study.best_trials`"):
        objective.best_model(study)


def counted() -> tuple[Callable[[nn.Module], float], list[int]]:
    calls: list[int] = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        return quality(model)

    return metric, calls


def test_candidate_that_the_study_has_is_not_evaluated_again() -> None:
    metric, calls = counted()
    study = study_of()
    for _ in range(4):
        study.enqueue_trial({"0": 0.25, "2": 0.5})
    study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=4)
    assert len(calls) == 2  # the dense network and the candidate
    assert len({trial.value for trial in study.trials}) == 1
    rebuilt = PruningObjective(SPACE, metric, CONSTRAINT)
    study.enqueue_trial({"0": 0.25, "2": 0.5})
    study.optimize(rebuilt, n_trials=1)
    assert len(calls) == 3  # the dense network, by which the metric is known again
    noisy = PruningObjective(SPACE, metric, CONSTRAINT, reuse=False)
    study.enqueue_trial({"0": 0.25, "2": 0.5})
    study.optimize(noisy, n_trials=1)
    assert len(calls) == 5


def test_fixed_trial_is_evaluated_without_a_study() -> None:
    objective = PruningObjective(SPACE, quality, CONSTRAINT)
    trial = optuna.trial.FixedTrial({"0": 0.25, "2": 0.5})
    assert objective(trial) == quality(SPACE.prune({"0": 0.25, "2": 0.5}))
    assert trial.user_attrs["softprune:sparsity"] == SPACE.sparsity({"0": 0.25, "2": 0.5})


def test_threads_give_the_same_values_as_one() -> None:
    studies = []
    for jobs in (1, 4):
        study = study_of()
        for point in np.random.default_rng(0).random((24, 2)) * 0.8:
            study.enqueue_trial({"0": point[0], "2": point[1]})
        study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=24, n_jobs=jobs)
        studies.append(sorted((tuple(trial.params.items()), trial.value) for trial in study.trials))
    assert studies[0] == studies[1]


def test_interrupt_leaves_model_and_study_as_they_should_be() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    calls = threading.Semaphore(4)

    def metric(model: nn.Module) -> float:
        value = quality(model)
        if not calls.acquire(blocking=False):
            raise KeyboardInterrupt
        return value

    study = study_of()
    with pytest.raises(KeyboardInterrupt):
        study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=10)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.FAIL, TrialState.WAITING]  # its candidate is queued again
    assert "softprune:failure" not in study.trials[-1].user_attrs
    assert all(torch.equal(before[name], tensor) for name, tensor in MODEL.state_dict().items())
    assert not MODEL.training


def test_metric_that_trains_and_breaks_its_network_changes_nothing_else() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}

    def metric(model: nn.Module) -> float:
        value = quality(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        model.train()
        return value

    study = study_of()
    study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=3)
    assert study.trials[0].value == quality(SPACE.prune(SPACE.coefficients(study.trials[0].params)))
    assert all(torch.equal(before[name], tensor) for name, tensor in MODEL.state_dict().items())


def test_metric_gets_a_network_in_eval_mode_of_the_users_class() -> None:
    def metric(model: nn.Module) -> float:
        assert isinstance(model, nn.Sequential)
        assert model.__class__ is nn.Sequential
        assert not any(module.training for module in model.modules())
        assert torch.is_grad_enabled()
        return quality(model)

    study_of().optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=2)


def test_metric_may_run_only_a_part_of_the_network() -> None:
    def metric(model: Any) -> float:
        value: float = model[0](X).shape[1] * 1.0
        return value

    study = study_of()
    study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=2)
    assert study.best_trial.state == TrialState.COMPLETE


def returns_nothing(model: nn.Module) -> Any:
    model(X)


def returns_an_empty_mapping(model: nn.Module) -> Any:
    model(X)
    return {}


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (lambda model: model(X).mean(), TypeError, r"return a float or a mapping, but got Tensor: write `.item\(\)`"),
        (returns_nothing, TypeError, r"but got NoneType: does it end in `return`\?"),
        (lambda model: str(model(X).sum().item()), TypeError, r"but got str: return the number that it was made of"),
        (lambda model: (model(X).sum().item(), 1.0), TypeError, r"but got tuple: give each number a name, as in `\{"),
        (lambda model: model(X).detach().numpy(), TypeError, r"but got ndarray: write `.item\(\)` behind the tensor"),
        (lambda model: {"psnr": model(X).mean()}, TypeError, r"a mapping of names to floats, but got"),
        (returns_an_empty_mapping, TypeError, r"a mapping of names to floats, but got \{\}"),
        (lambda model: {"psnr": model(X).sum().item()}, ValueError, r"return \['metric'\], but got only \['psnr'\]"),
        (lambda model: MODEL(X).sum().item(), ValueError, r"to run the model that it is given, but it never did"),
        (lambda model: model(X).sum().item() / 0, ZeroDivisionError, "division"),
        (lambda model: model(X).sum().item() * float("nan"), ValueError, r"dense network to be finite, but metric"),
    ],
)
def test_wrong_metrics_are_said_and_fail_the_trial(metric: Any, error: type[Exception], message: str) -> None:
    study = study_of()
    with pytest.raises(error, match=message):
        study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_not_finite_fails_the_trial_and_the_search_goes_on(value: float) -> None:
    calls: list[int] = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        return value if len(calls) == 3 else quality(model)

    def runs(model: nn.Module) -> float:
        model(X)
        return metric(model)

    study = study_of()
    study.optimize(PruningObjective(SPACE, runs, CONSTRAINT), n_trials=4)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[1].user_attrs["softprune:failure"] == f"metric `metric` is {value}"


def test_exception_in_the_metric_keeps_its_reason() -> None:
    calls: list[int] = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the simulator crashed")
        return quality(model)

    study = study_of()
    study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=4, catch=RuntimeError)
    assert [trial.state for trial in study.trials].count(TrialState.COMPLETE) == 3
    assert study.trials[1].user_attrs["softprune:failure"] == "RuntimeError: the simulator crashed"


def test_pruned_trials_are_no_values() -> None:
    calls: list[int] = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) > 2:
            raise optuna.TrialPruned
        return quality(model)

    study = study_of()
    study.optimize(PruningObjective(SPACE, metric, CONSTRAINT), n_trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]


def test_dense_network_that_misses_a_requirement_is_an_error_at_once() -> None:
    objective = PruningObjective(SPACE, quality, CONSTRAINT, requirements=(Requirement("metric", at_least=1.0),))
    with pytest.raises(ValueError, match=r"Expected the dense network to meet .*at_least=1.0.* but it has"):
        study_of().optimize(objective, n_trials=3)


def test_study_with_wrong_directions_is_refused() -> None:
    objective = PruningObjective(SPACE, quality, CONSTRAINT)
    for settings, got in (({"direction": "minimize"}, "minimize"), ({"directions": ["maximize"] * 2}, "maximize")):
        with pytest.raises(StudyMismatchError, match=rf"\['maximize'\] of the objective, but .* has \['{got}'"):
            study_of(optuna.samplers.RandomSampler(), **settings).optimize(objective, n_trials=1)


def test_sampler_with_another_constraint_is_refused() -> None:
    other = SparsityConstraint(SPACE, 0.6, tolerance=0.03)
    study = study_of(ProjectedSampler(optuna.samplers.RandomSampler(seed=0), other))
    with pytest.raises(StudyMismatchError, match=r"same constraint, but got .*0.6.* and .*0.4.*: give both the same"):
        study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=1)


OTHERS: dict[str, tuple[Callable[[], PruningObjective], str]] = {
    "other sizes": (lambda: _objective(PruningSpace(network(width=13), (X,))), r"they differ in their groups.*13"),
    "other weights": (lambda: _objective(PruningSpace(network(seed=1), (X,))), r"they differ in their weights"),
    "other order": (
        lambda: _objective(PruningSpace(MODEL, (X,), importance=Magnitude(p=1))),
        r"they differ in their importance: the study has \"Magnitude\(p=2\)\", this search has \"Magnitude\(p=1\)\"",
    ),
    "other target": (lambda: _objective(SPACE, target=0.6), r"they differ in their constraint: .*0.4.*0.6"),
    "other metric names": (
        lambda: PruningObjective(SPACE, both, CONSTRAINT, objectives=("quality",)),
        r"they differ in their objective: .*\"metric\".*\"quality\"",
    ),
    "other widths": (lambda: _objective(PruningSpace(MODEL, (X,), min_units=2)), r"they differ in their widths"),
}


def _objective(space: PruningSpace, target: float = 0.4) -> PruningObjective:
    return PruningObjective(space, quality, SparsityConstraint(space, target, tolerance=0.03))


@pytest.mark.parametrize(("build", "message"), OTHERS.values(), ids=OTHERS)
def test_study_that_belongs_to_something_else_is_refused(build: Callable[[], PruningObjective], message: str) -> None:
    study = study_of(optuna.samplers.RandomSampler(seed=0))
    study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=2)
    with pytest.raises(StudyMismatchError, match=message):
        study.optimize(build(), n_trials=1)
    with pytest.raises(StudyMismatchError, match=message):
        build().best_model(study)
    assert [trial.state for trial in study.trials][:2] == [TrialState.COMPLETE] * 2


def test_study_whose_record_is_lost_is_refused() -> None:
    study = study_of()
    objective = PruningObjective(SPACE, quality, CONSTRAINT)
    study.optimize(objective, n_trials=3)
    renamed = study_of()
    renamed.add_trials(study.trials)
    for use in (lambda: renamed.optimize(objective, n_trials=1), lambda: objective.best_model(renamed)):
        with pytest.raises(StudyMismatchError, match=r"to have a record .* 3 complete trials and none.*`optuna.copy_s"):
            use()
    failed = study_of()
    failed.add_trials([optuna.trial.create_trial(state=TrialState.FAIL)])
    failed.optimize(objective, n_trials=1)
    assert failed.best_value == study.trials[0].value


@pytest.mark.parametrize("change", ["other weights", "other order", "no objective of ours"])
def test_trials_that_were_added_from_elsewhere_are_refused(change: str) -> None:
    study, other = study_of(), study_of()
    study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=2)
    params = study.trials[0].params
    if change == "no objective of ours":
        distributions = study.trials[0].distributions
        study.add_trial(optuna.trial.create_trial(value=0.0, params=params, distributions=distributions))
    else:
        space = (
            PruningSpace(network(seed=1), (X,))
            if change == "other weights"
            else SPACE.with_order([order[::-1].copy() for order in SPACE.order])
        )
        other.enqueue_trial(params)
        other.optimize(_objective(space), n_trials=1)
        study.add_trials(other.trials)
    with pytest.raises(StudyMismatchError, match=r"complete trials of study .* but trials 2 are not"):
        PruningObjective(SPACE, quality, CONSTRAINT).best_model(study)


def test_trial_that_was_added_while_the_objective_knew_the_study_is_refused() -> None:
    study, objective = study_of(), PruningObjective(SPACE, quality, CONSTRAINT)
    study.optimize(objective, n_trials=2)
    first = study.trials[0]
    study.add_trial(
        optuna.trial.create_trial(value=first.value + 1, params=first.params, distributions=first.distributions)
    )
    with pytest.raises(StudyMismatchError, match=r"complete trials of study .* but trials 2 are not"):
        objective.best_model(study)


def test_value_that_is_changed_behind_the_objective_is_said(caplog: pytest.LogCaptureFixture) -> None:
    study, objective = study_of(), PruningObjective(SPACE, quality, CONSTRAINT)
    study.optimize(objective, n_trials=2)
    objective.best_model(study)
    assert "was changed" not in caplog.text
    study.optimize(lambda trial: objective(trial) + 5, n_trials=1)  # type: ignore[operator]
    small = objective.best_model(study)
    assert f"trial 2 is {study.best_value:.6g} in the study, but `metric` of its network is" in caplog.text
    assert quality(small) == pytest.approx(study.best_value - 5)


def test_copied_study_goes_on_as_the_one_that_it_was_copied_from() -> None:
    first, storage = optuna.storages.InMemoryStorage(), optuna.storages.InMemoryStorage()
    study = study_of(storage=first)
    objective = PruningObjective(SPACE, quality, CONSTRAINT)
    study.optimize(objective, n_trials=5)
    optuna.copy_study(from_study_name=study.study_name, from_storage=first, to_storage=storage)
    copied = optuna.load_study(study_name=study.study_name, storage=storage, sampler=study.sampler)
    copied.optimize(objective, n_trials=1)
    assert quality(objective.best_model(copied)) == copied.best_value


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return (model(X).argmax(1) == MODEL(X).argmax(1)).double().mean().item()


def minus_cross_entropy(model: nn.Module) -> float:
    with torch.no_grad():
        return -nn.functional.cross_entropy(model(X), MODEL(X).argmax(1)).item()


def test_study_of_another_metric_is_refused() -> None:
    study = study_of()
    study.optimize(PruningObjective(SPACE, accuracy, CONSTRAINT), n_trials=2)
    with pytest.raises(StudyMismatchError, match=r"metric is -.* here and 1 in the study. Use another study name"):
        study.optimize(PruningObjective(SPACE, minus_cross_entropy, CONSTRAINT), n_trials=1)


def test_noise_is_no_other_metric(caplog: pytest.LogCaptureFixture) -> None:
    """A noisy metric lies anywhere near; one of another scale is said, and no more, since nothing is certain."""
    noise = np.random.default_rng(0)

    def noisy(model: nn.Module) -> float:
        return accuracy(model) + float(noise.normal(0, 0.05))

    study = study_of()
    for _ in range(4):
        study.optimize(PruningObjective(SPACE, noisy, CONSTRAINT, reuse=False), n_trials=1)
    assert "other metrics" not in caplog.text
    study.optimize(PruningObjective(SPACE, minus_cross_entropy, CONSTRAINT, reuse=False), n_trials=1)
    assert "other metrics than when study" in caplog.text
    assert len(study.trials) == 5


def test_rounding_of_another_machine_is_no_other_metric() -> None:
    study = study_of()
    study.optimize(PruningObjective(SPACE, accuracy, CONSTRAINT), n_trials=1)
    study.optimize(PruningObjective(SPACE, lambda model: accuracy(model) * 0.997, CONSTRAINT), n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


class Twice(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = 2 * self.model(x)
        return out


def trained(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
    for batch in X.split(8):
        optimizer.zero_grad()
        (model(batch) - MODEL(batch).detach()).square().mean().backward()
        optimizer.step()
    model.eval()


def averaged(model: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(model)


@pytest.mark.parametrize("finish", [trained, Twice, averaged])
def test_what_finishes_a_network_is_done_before_the_metric_and_by_best_model(finish: Any) -> None:
    study = study_of()
    objective = PruningObjective(SPACE, quality, CONSTRAINT, finish=finish)
    study.optimize(objective, n_trials=4)
    for trial in study.trials:
        small = SPACE.prune(SPACE.coefficients(trial.params)).eval()
        assert trial.value == pytest.approx(quality(finish(small) or small), rel=1e-6)
    best = objective.best_model(study)
    assert quality(best) == pytest.approx(study.best_value, rel=1e-6)
    dense = network()
    assert study.user_attrs["softprune:dense"]["metric"] == pytest.approx(quality(finish(dense) or dense), abs=1e-9)


def test_a_study_of_finished_networks_is_none_of_unfinished_ones() -> None:
    def untouched(model: nn.Module) -> None:
        """Leave a network as it is, the dense one too: its metric tells nothing."""

    bare, finished = (PruningObjective(SPACE, quality, CONSTRAINT, finish=each) for each in (None, untouched))
    for one, other, words in (
        (finished, bare, r"are finished before they are measured, this search has no `finish`: give it the one"),
        (bare, finished, r"are measured as they are, this search has a `finish`: leave it out"),
    ):
        study = study_of()
        study.optimize(one, n_trials=2)
        for use in (other.best_model, lambda study, other=other: study.optimize(other, n_trials=1)):
            with pytest.raises(StudyMismatchError, match=words):
                use(study)
        one.best_model(study)


def test_finish_that_returns_no_network_is_said() -> None:
    objective = PruningObjective(SPACE, quality, CONSTRAINT, finish=lambda model: 3.0)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"`finish` to return a network or None, but got float"):
        study_of().optimize(objective, n_trials=1)


def test_best_model_without_a_feasible_trial_names_the_nearest_and_the_bound() -> None:
    requirement = Requirement("quality", at_least=-1e-6)
    objective = PruningObjective(SPACE, both, CONSTRAINT, objectives=("quality",), requirements=(requirement,))
    study = study_of()
    with pytest.raises(ValueError, match=r"to have a complete trial, but none of its 0 trials is: run `study"):
        objective.best_model(study)
    study.optimize(objective, n_trials=5)
    excesses = [trial.constraints["requirement:quality"] for trial in study.trials]
    nearest, excess = int(np.argmin(excesses)), min(excesses)
    assert excess > 0
    with pytest.raises(ValueError, match=rf"none of the 5 .* nearest, trial {nearest}, breaks Requirement\(metric='"):
        objective.best_model(study)


def test_order_of_units_is_the_studys(caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.enable_propagation()
    study = study_of()
    first = PruningSpace(MODEL, (X,), importance=ActivationEnergy(Calibration([(X[:4],)])))
    PruningObjective(first, quality, SparsityConstraint(first, 0.4, tolerance=0.03))
    objective = _objective(first)
    study.optimize(objective, n_trials=6)
    later = PruningSpace(MODEL, (X,), importance=ActivationEnergy(Calibration([(X[4:],)])))
    assert any((a != b).any() for a, b in zip(first.order, later.order, strict=True))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    again = _objective(later)
    assert quality(again.best_model(study)) == study.best_value
    assert "the study's order is used" in caplog.text
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.logging.disable_propagation()


def test_other_versions_are_a_warning_only(caplog: pytest.LogCaptureFixture) -> None:
    study = study_of()
    study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=1)
    study.set_user_attr("softprune:versions", {**study.user_attrs["softprune:versions"], "torch": "1.0"})
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study.optimize(PruningObjective(SPACE, quality, CONSTRAINT), n_trials=1)
    assert "begun with other versions: torch 1.0 ->" in caplog.text
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.logging.disable_propagation()


def test_stored_order_of_many_units_stays_below_the_limit_of_mysql() -> None:
    wide = PruningSpace(network(width=20_000), (X,))
    study = study_of(optuna.samplers.RandomSampler(seed=0))
    objective = PruningObjective(wide, lambda model: model(X).mean().item())
    study.optimize(objective, n_trials=1)
    assert max(len(str(value)) for value in study.user_attrs.values()) < 60_000
    assert objective.best_model(study)(X).shape == X.shape


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"space": MODEL}, TypeError, r"Expected `space` to be a `PruningSpace`, but got Sequential"),
        ({"metric": 3.0}, TypeError, r"Expected `metric` to be a function of a model, but got float"),
        ({"constraint": 0.5}, TypeError, r"Expected `constraint` to be a `SparsityConstraint`, but got float"),
        ({"objectives": "metric"}, ValueError, r"Expected `objectives` to be a sequence of names, but got 'metric'"),
        ({"directions": ("maximise",)}, ValueError, r"Expected `directions` to be \"maximize\" or \"minimize\""),
        ({"directions": ("maximize", "minimize")}, ValueError, r"for \['metric'\]"),
        ({"finish": "training"}, TypeError, r"Expected `finish` to be a function of a model, but got str"),
        ({"requirements": (("metric", 1.0),)}, TypeError, r"to be of `Requirement`, but got tuple"),
    ],
)
def test_wrong_arguments_are_said(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PruningObjective(**{"space": SPACE, "metric": quality, "constraint": CONSTRAINT, **arguments})


def test_wrong_requirements_are_said() -> None:
    with pytest.raises(ValueError, match=r"Expected `at_least` or `at_most` .* but got neither"):
        Requirement("psnr")
    with pytest.raises(ValueError, match=r"`at_least` to be at most `at_most`, but got 2 and 1"):
        Requirement("psnr", at_least=2, at_most=1)
    assert Requirement("psnr", at_least=2.0, at_most=4.0).violation(5.0) == 0.25
    assert Requirement("error", at_most=0.0).violation(0.5) == 0.5


def test_what_is_said_goes_to_optunas_handler_at_its_level() -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("optuna").addHandler(handler)
    counts = []
    for level in (optuna.logging.INFO, optuna.logging.WARNING, optuna.logging.ERROR):
        optuna.logging.set_verbosity(level)
        said.clear()
        study_of().optimize(PruningObjective(SPACE, lambda model: model(X).mean().item(), CONSTRAINT), n_trials=1)
        ours = [record for record in said if "softprune" in record.name]
        assert all(record.levelno >= level for record in ours)
        counts.append((len(ours), sum("groups; sparsity up to" in record.getMessage() for record in ours)))
    logging.getLogger("optuna").removeHandler(handler)
    assert counts == [(3, 1), (1, 0), (0, 0)]  # the network and its metrics; that gradients are enabled; nothing
