"""Coefficients: the lattice, its rounding, its limits, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optuna_softprune import NothingToPruneError, PruningSpace
from optuna_softprune.coefficients import Lattice, removable

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def two_groups(first: int = 6, second: int = 5) -> nn.Sequential:
    layers = nn.Linear(3, first), nn.ReLU(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, 2)
    return nn.Sequential(*layers).eval()


@pytest.fixture
def space() -> PruningSpace:
    return PruningSpace(two_groups(), (X,))


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 10))
def test_kept_widths_are_whole_or_multiples(size: int, round_to: int, min_units: int) -> None:
    kept = size - removable(size, round_to, min_units)
    assert kept[0] == size
    assert all(width % round_to == 0 and width >= min_units for width in kept[1:].tolist())
    assert kept.tolist() == sorted(set(kept.tolist()), reverse=True)
    below = [width for width in range(max(min_units, 1), size) if width % round_to == 0]
    assert sorted(kept[1:].tolist()) == below


@given(st.integers(2, 400), st.integers(1, 16), st.data())
def test_snapping_is_nearest_with_halves_up_and_stays_where_it_is(size: int, round_to: int, data: Any) -> None:
    lattice = Lattice.of({"group": size}, round_to=round_to, min_units=1)
    high = float(lattice.highest[0])
    c = data.draw(st.floats(0, high))
    (removed,) = lattice.removed(np.array([c])).tolist()
    distances = np.abs(lattice.levels[0] - c * size)
    assert abs(removed - c * size) <= distances.min() + 1e-9
    assert lattice.removed(np.array([removed / size])).tolist() == [removed]


def test_half_a_unit_rounds_up(space: PruningSpace) -> None:
    assert space.snap({"0": 0.25, "2": 0.1}) == {"0": 2 / 6, "2": 1 / 5}
    assert space.snap(np.array([[0.25, 0.1], [0.24, 0.09]])).tolist() == [[2 / 6, 1 / 5], [1 / 6, 0.0]]


def test_distributions_end_where_min_units_are_left() -> None:
    space = PruningSpace(two_groups(), (X,), min_units=2)
    assert {name: (found.low, found.high) for name, found in space.distributions.items()} == {
        "0": (0.0, 4 / 6),
        "2": (0.0, 3 / 5),
    }
    assert space.prune({"0": 4 / 6, "2": 3 / 5})(X).shape == (4, 2)


def test_widths_are_multiples_where_asked_for() -> None:
    space = PruningSpace(two_groups(20, 16), (X,), round_to=8)
    widths = set()
    for c in np.linspace(0, 1, 30):
        small: Any = space.prune({name: c * found.high for name, found in space.distributions.items()})
        widths.add((small[0].out_features, small[2].out_features))
    assert {a for a, _ in widths} == {8, 16, 20}
    assert {b for _, b in widths} == {8, 16}


def test_groups_without_a_choice_are_protected_with_the_reason() -> None:
    space = PruningSpace(two_groups(6, 20), (X,), round_to=8)
    assert [group.name for group in space.groups] == ["2"]
    assert any(p.reason == "has 6 units, with `min_units=1` and `round_to=8`" for p in space.protected)


def test_suggest_gives_lattice_points_under_the_names_of_the_groups(space: PruningSpace) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    c = space.suggest(trial)
    assert list(trial.params) == ["0", "2"]
    assert c == space.snap(c) == space.coefficients({**trial.params, "learning_rate": 0.1})
    fixed = optuna.trial.FixedTrial({"0": 0.5, "2": 0.4})
    assert space.suggest(fixed) == {"0": 0.5, "2": 0.4}


def test_sparsity_is_counted_on_the_physical_module(space: PruningSpace) -> None:
    dense = 3 * 6 + 6 + 6 * 5 + 5 + 5 * 2 + 2
    pruned = 3 * 3 + 3 + 3 * 5 + 5 + 5 * 2 + 2
    c = {"0": 0.5, "2": 0.0}
    assert (space.parameters({"0": 0.0, "2": 0.0}), space.parameters(c)) == (dense, pruned)
    assert space.sparsity(c) == 1 - pruned / dense
    assert space.macs(c) == 4 * (3 * 3 + 3 * 5 + 5 * 2)
    assert space.sparsity(c, of="macs") == 1 - (9 + 15 + 10) / (18 + 30 + 10)


@pytest.mark.parametrize(
    ("c", "message"),
    [
        ({"0": 0.5}, r"Expected one coefficient for each group, but got none for 2"),
        ({"0": 0.5, "2": 0, "fc": 0}, r"unknown names fc\. The names are those of `space.distributions`"),
        ({"0": float("nan"), "2": 0}, r"coefficient of `0` to be in \[0, 0.833333\], but got nan"),
        ({"0": 0, "2": -0.1}, r"coefficient of `2` to be in \[0, 0.8\], but got -0.1"),
        ({"0": 1.0, "2": 0}, r"`0` to be in \[0, 0.833333\], but got 1: of its 6 units at most 5 can be removed"),
        (np.array([[0.0, 0.0], [0.0, 0.9]]), r"coefficient of `2` .* but got 0.9"),
        (np.zeros(3), r"Expected coefficients of shape \(\.\.\., 2\), one for each group, but got shape \(3,\)"),
        (np.array(0.5), r"but got shape \(\)"),
    ],
)
def test_wrong_coefficients_are_said(space: PruningSpace, c: Any, message: str) -> None:
    for use in (space.snap, space.sparsity, space.parameters, space.macs):
        with pytest.raises(ValueError, match=message):
            use(c)


def test_coefficients_that_are_no_numbers_are_said(space: PruningSpace) -> None:
    with pytest.raises(TypeError, match=r"Expected coefficients to be floats, but got \['half', 0\]"):
        space.prune({"0": "half", "2": 0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r'Expected `of` to be "parameters" or "macs", but got \'flops\''):
        space.sparsity({"0": 0, "2": 0}, of="flops")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"round_to": 0}, ValueError, r"Expected `round_to` to be an integer of at least 1, but got 0"),
        ({"round_to": 1.5}, ValueError, r"Expected `round_to` to be an integer of at least 1, but got 1.5"),
        ({"min_units": -1}, ValueError, r"Expected `min_units` to be an integer of at least 1, but got -1"),
        ({"importance": "l2"}, TypeError, r"Expected `importance` to be an object .* for instance `Magnitude\(p=2\)`"),
        ({"ignored": ("head*",)}, ValueError, r"nothing matches 'head\*'. The groups are 0, 2\."),
        ({"ignored": "0"}, TypeError, r"Expected `ignored` to be a sequence of names, but got '0'"),
        ({"components": {"a": nn.Linear(1, 1)}}, ValueError, r"`components\['a'\]` to be a module inside of the model"),
        ({"components": {"a": "0"}}, ValueError, r"`components\['a'\]` to be a module inside .* but got str"),
        ({"example_kwargs": [X]}, TypeError, r"Expected `example_kwargs` to be a mapping, but got list"),
    ],
)
def test_wrong_arguments_are_said(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PruningSpace(two_groups(), (X,), **arguments)


@pytest.mark.parametrize("pattern", ["0", "0.*", "0.bias", "[01]"])
def test_ignored_names_groups_modules_and_parameters(pattern: str) -> None:
    space = PruningSpace(two_groups(), (X,), ignored=(pattern,))
    assert [group.name for group in space.groups] == ["2"]
    assert any(p.reason == f"ignored by {pattern!r}" for p in space.protected)


def test_ignored_layer_may_still_read_less() -> None:
    space = PruningSpace(two_groups(), (X,), ignored=("2", "4"))
    assert [group.name for group in space.groups] == ["0"]
    small: Any = space.prune({"0": 0.5})
    assert (small[2].in_features, small[2].out_features) == (3, 5)


def test_no_prunable_group_is_an_error_with_the_reasons() -> None:
    with pytest.raises(NothingToPruneError, match=r"weight: coupled to the input `input`"):
        PruningSpace(nn.Linear(3, 2).eval(), (X,))


def test_table_names_groups_and_what_is_protected() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 6), nn.ReLU()), nn.Linear(6, 2)).eval()
    assert str(PruningSpace(model, (X,))).splitlines() == [
        "Sequential: 1 group, 6 units, 38 parameters (sparsity up to 0.789), 120 MACs (up to 0.833)",
        "  group  component  units  parameters  MACs",
        "  0.0    0 + 1          6          36   120",
        "protected",
        "  coupled to the input `input`: 0.0.weight axis 1",
        "  an output of the network: 1.weight axis 0 and 1 more",
    ]
