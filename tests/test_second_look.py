"""A trial's value is that of its network: whatever becomes the best is looked at a second time."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
import torch
from evaluations import assert_values_are_those_of_the_networks
from optuna.trial import TrialState
from torch import Tensor, nn

from optuna_softprune import PruningObjective, PruningSpace, SoftPruneError, StudyMismatchError
from optuna_softprune.objective._second_look import SecondLook
from optuna_softprune.testing import RandomNetwork, randomise
from optuna_softprune.testing._random_network import STEPS, Step

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


class Sudden(nn.Module):
    """Computes something else at one pair of widths, which `torch.export` cannot see."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read, self.middle, self.head = nn.Linear(6, 12), nn.Linear(12, 9), nn.Linear(9, 3)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.read(x))
        z = torch.tanh(self.middle(y))
        if y.shape[1] == self.width and z.shape[1] == 7:
            z = z * 2
        out: Tensor = self.head(z)
        return out


def undiscovered() -> tuple[PruningSpace, int]:
    """Return a network at whose sudden width verification did not look."""
    for width in range(10, 2, -1):
        try:
            space = PruningSpace(randomise(Sudden(width)).eval(), (X[:2],))
        except (SoftPruneError, ValueError):
            continue
        if space.lattice.highest.tolist() == [11 / 12, 8 / 9]:
            return space, width
    raise AssertionError("verification finds every width")


SPACE, WIDTH = undiscovered()


def strength(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(X).square().mean().item())


def coefficient(width: int) -> dict[str, float]:
    return {"read": 1 - width / 12, "middle": 1 - 7 / 9}


def whole(trial: optuna.trial.FrozenTrial) -> float:
    return strength(SPACE.prune(SPACE.coefficients(trial.params)).eval())


def test_candidate_that_is_another_network_fails_and_the_study_is_evaluated_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = optuna.create_study(direction="maximize")
    for width in (WIDTH, 11, WIDTH, 1):
        study.enqueue_trial(coefficient(width))
    study.optimize(PruningObjective(SPACE, strength), n_trials=4)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, *[TrialState.COMPLETE] * 3]
    reason = "the exported graph does not compute what the removed network computes"
    assert study.trials[0].user_attrs["softprune:failure"] == reason
    assert study.user_attrs["softprune:whole"] == {"since": 0, "reason": reason}
    assert "is evaluated whole from now on" in caplog.text
    later = PruningObjective(SPACE, strength, reuse=False)  # as in another process
    study.enqueue_trial(coefficient(WIDTH))
    study.optimize(later, n_trials=1)
    for trial in study.trials[1:]:
        assert trial.value == pytest.approx(whole(trial), rel=1e-6)
    assert strength(later.best_model(study)) == pytest.approx(study.best_value, rel=1e-6)


def test_values_from_before_are_not_taken_over() -> None:
    study = optuna.create_study(direction="minimize")
    objective = PruningObjective(SPACE, strength, directions=("minimize",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SecondLook, "is_due", lambda *_: False)  # other candidates were better when it came
        study.enqueue_trial(coefficient(WIDTH))
        study.optimize(objective, n_trials=1)
    assert study.trials[0].value != pytest.approx(whole(study.trials[0]), rel=1e-3)
    with pytest.raises(StudyMismatchError, match="value of the best trial, 0, to be of its network, but the expo"):
        objective.best_model(study)
    study.enqueue_trial(coefficient(WIDTH))
    study.optimize(objective, n_trials=1)
    assert study.trials[1].value == pytest.approx(whole(study.trials[1]), rel=1e-6)


def test_only_what_becomes_the_best_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, ...]] = []
    from optuna_softprune.evaluation import Evaluator

    difference = Evaluator.difference

    def noted(evaluator: Evaluator, candidate: object, call: object) -> str:
        looked.append(candidate.counts)  # type: ignore[attr-defined]
        return difference(evaluator, candidate, call)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "difference", noted)
    study = optuna.create_study(direction="maximize")
    for width in [each for each in range(1, 12) if each != WIDTH]:
        study.enqueue_trial(coefficient(width))
    study.optimize(PruningObjective(SPACE, strength), n_trials=10)
    values = [trial.value for trial in study.trials if trial.value is not None]
    best = list(itertools.accumulate(values, max))
    records = [i for i, value in enumerate(values) if i == 0 or value > best[i - 1]]
    assert [counts[0] for counts in looked] == [[w for w in range(1, 12) if w != WIDTH][i] for i in records]


# The fast suite has the first 10 networks, the slow one the rest of a thousand.
SLOW = [range(10, 20), *(range(i, i + 49) for i in range(20, 1000, 49))]
PARTS = [range(10), *(pytest.param(part, marks=pytest.mark.slow) for part in SLOW)]


def drawn(seed: int) -> RandomNetwork:
    random = np.random.default_rng(seed)
    kinds = sorted(STEPS)
    return RandomNetwork(
        [Step(str(random.choice(kinds)), *random.integers(0, 60, 4).tolist()) for _ in range(random.integers(1, 11))]
    )


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("seeds", PARTS, ids=str)
def test_values_are_those_of_the_networks_by_every_sampler(seeds: range) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert sum(assert_values_are_those_of_the_networks(drawn(seed)) for seed in seeds) > 10 * len(seeds)


class SaysHowMany(nn.Module):
    """Returns how many examples it was given, which `torch.export` takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.head(torch.tanh(self.read(x))), len(x)


def test_number_of_examples_that_is_returned_makes_no_candidate_wrong() -> None:
    space = PruningSpace(randomise(SaysHowMany()).eval(), (X,))

    def mean(model: nn.Module) -> float:
        with torch.no_grad():
            y, number = model(X)
            z, other = model(X[:20])
        return float(y.square().sum().item() / number + z.square().sum().item() / other)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    objective = PruningObjective(space, mean)
    study.optimize(objective, n_trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert mean(objective.best_model(study)) == pytest.approx(study.best_value, rel=1e-5)


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
def test_a_branch_that_a_few_numbers_hide_at_one_width_is_found_at_another() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert assert_values_are_those_of_the_networks(drawn(789)) > 10
