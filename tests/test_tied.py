"""Groups that share a coefficient: what one candidate means with them and without, and that all else follows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from checks import counted_macs, counted_parameters
from torch import Tensor, nn

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint, StudyMismatchError
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, baselines
from optuna_softprune.testing import ZOO, randomise
from optuna_softprune.visualization import coefficients

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Blocks(nn.Module):
    """Residual blocks with batch norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1))
            for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def autoencoder() -> nn.Sequential:
    widths = (6, 20, 20, 16, 20, 6)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def transformer() -> nn.Sequential:
    heads = next(each.build for each in ZOO if each.name == "heads")
    return nn.Sequential(heads(), nn.Linear(2, 4), heads(), nn.Linear(2, 4), heads())


# Network, shape of its input, and what is tied.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "autoencoder": (autoencoder, (4, 6), ("[026]",)),
    "classifier": (Blocks, (2, 1, 6, 6), ("blocks.*.0",)),
    "transformer": (transformer, (2, 5, 4), ("*.stem", "*.qkv")),
}


def spaces(kind: str) -> tuple[nn.Module, PruningSpace, PruningSpace]:
    """Return a network, its space with ties, and without."""
    build, shape, tied = NETWORKS[kind]
    model = randomise(build()).eval()
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
    return model, PruningSpace(model, x, tied=tied), PruningSpace(model, x)


@pytest.mark.parametrize("kind", NETWORKS)
def test_tied_groups_are_pruned_as_groups_of_equal_coefficients(kind: str) -> None:
    _, tied, free = spaces(kind)
    assert set(NETWORKS[kind][2]) <= set(tied.tied_groups)
    members = [name for groups in tied.tied_groups.values() for name in groups]
    assert sorted(members) == sorted(group.name for group in free.groups)
    random = np.random.default_rng(0)
    for _ in range(3):
        c = tied.named(tied.snap(random.random(len(tied.distributions)) * tied.lattice.highest))
        same = {name: c[coefficient] for coefficient, groups in tied.tied_groups.items() for name in groups}
        small, expected = tied.prune(c), free.prune(same)
        assert all(torch.equal(a, b) for a, b in zip(small.parameters(), expected.parameters(), strict=True))
        assert tied.kept_units(c) == free.kept_units(same)
        assert tied.parameters(c) == counted_parameters(small)
        assert tied.macs(c) == counted_macs(small, tied.example[0])
        assert tied.component_counts(c) == free.component_counts(same)
        assert tied.verify(c) < 1e-9
    for of in ("parameters", "macs"):
        constraint = SparsityConstraint(tied, 0.4, tolerance=0.05, of=of)
        inside = constraint.project(0.4 * constraint.highest)
        assert constraint.violation(inside) <= 0
        along = [constraint.residual(np.clip(inside + e, 0, constraint.highest)) for e in 1e-6 * np.eye(len(inside))]
        slopes = (np.array(along) - constraint.residual(inside)) / 1e-6
        assert constraint.gradient(inside) == pytest.approx(slopes, rel=1e-3, abs=1e-6)
        assert all(constraint.violation(each) <= 0 for each in baselines(tied, constraint).values())


def test_a_search_of_tied_groups_ends_with_a_network_and_its_pictures() -> None:
    model, tied, free = spaces("autoencoder")
    x = tied.example[0][0]
    constraint = SparsityConstraint(tied, 0.5, tolerance=0.03)
    assert constraint.names == ("[026]", "4")

    def metric(small: nn.Module) -> float:
        return -(small(x) - model(x)).square().mean().item()

    objective = PruningObjective(tied, metric, constraint)
    best = {}
    for sampler in (FeasibleGridSampler(tied, constraint, levels=20), FiniteDifferenceSampler(constraint)):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=60)
        assert all(trial.constraints["sparsity"] <= 0 for trial in study.get_trials(states=(_COMPLETE,)))
        best[type(sampler)] = study.best_value
        assert metric(objective.best_model(study)) == pytest.approx(study.best_value, rel=1e-5)
    assert best[FiniteDifferenceSampler] == best[FeasibleGridSampler]  # all that there is
    drawn = coefficients(study)
    assert drawn.groups == tuple(group.name for group in tied.groups)
    assert (drawn.coefficients[0] == drawn.coefficients[1]).all()
    study.sampler = optuna.samplers.RandomSampler()
    with pytest.raises(
        StudyMismatchError, match=r"in their tied groups: the study has .*\[026\].*, this search has \"\(\)\"\."
    ):
        study.optimize(PruningObjective(free, metric, SparsityConstraint(free, 0.5, tolerance=0.03)), n_trials=1)


_COMPLETE = optuna.trial.TrialState.COMPLETE


def test_table_says_what_is_tied() -> None:
    _, tied, free = spaces("classifier")
    assert "tied\n  blocks.*.0: 3 groups, blocks.0.0, blocks.1.0, blocks.2.0\n" in str(tied)
    assert "blocks.*.0: 3 groups" in tied._repr_html_()
    assert "tied" not in str(free)
    assert [group.name for group in tied.groups] == [group.name for group in free.groups]


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        (("9",), "at least two groups that can be pruned to match each name in `tied`, but of '9' nothing does"),
        (("4",), "but of '4' only '4' does"),
        (("[0246]",), r"equally many units, but '\[0246\]' matches groups of 16, 20 units"),
        (("[02]", "[06]"), r"to match one name in `tied`, but '0' matches '\[02\]' and '\[06\]'"),
        ("[02]", "Expected `tied` to be a sequence of names"),
    ],
)
def test_bad_patterns_are_said(tied: Sequence[str], message: str) -> None:
    errors: Any = (TypeError, ValueError)
    with pytest.raises(errors, match=message):
        PruningSpace(autoencoder().eval(), (torch.randn(4, 6),), tied=tied)
