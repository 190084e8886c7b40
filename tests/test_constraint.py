"""The sparsity constraint and its projection, against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optuna_softprune import InfeasibleTargetError, LatticeConstraint, PruningSpace, SparsityConstraint
from optuna_softprune.coefficients import Count
from optuna_softprune.testing import analytic_problem


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)  # built while tests are collected, too
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def space_of(*widths: int, **settings: Any) -> PruningSpace:
    return PruningSpace(
        mlp(*widths), (torch.randn(1, widths[0], generator=torch.Generator().manual_seed(0)),), **settings
    )


SMALL = space_of(6, 7, 5, 8, 4)
LARGE = space_of(16, 40, 32, 24, 40, 16)


def lattice(space: PruningSpace) -> np.ndarray[Any, Any]:
    """Return all lattice points, by walking the widths."""
    ranges = [np.arange(group.size) / group.size for group in space.groups]
    return np.array(list(itertools.product(*ranges)))


points = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@settings(deadline=None)
@given(points, st.floats(0.1, 0.88), st.sampled_from([0.005, 0.02, 0.1]))
def test_projection_is_the_nearest_feasible_lattice_point(where: list[float], target: float, tolerance: float) -> None:
    c = np.array(where) * SMALL.lattice.highest
    everything = lattice(SMALL)
    feasible = everything[np.abs(SMALL.sparsity(everything) - target) <= tolerance]
    if not len(feasible):
        with pytest.raises(InfeasibleTargetError, match="the closest found has sparsity"):
            SparsityConstraint(SMALL, target, tolerance=tolerance)
        return
    constraint = SparsityConstraint(SMALL, target, tolerance=tolerance)
    found = constraint.project(c)
    assert constraint.violation(found) <= 0
    nearest = np.sqrt(((feasible - c) ** 2).sum(axis=1)).min()
    assert np.linalg.norm(found - c) == pytest.approx(nearest, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0.05, 0.95))
def test_projection_on_a_large_lattice_is_feasible_fixed_and_repeatable(where: list[float], target: float) -> None:
    constraint = SparsityConstraint(LARGE, target)
    c = np.array(where) * LARGE.lattice.highest
    found = constraint.project(c)
    assert constraint.violation(found) <= 0
    assert (LARGE.snap(found) == found).all()
    assert (constraint.project(found) == found).all()
    assert (constraint.project(c) == found).all()


def test_projection_on_a_large_lattice_is_close_to_the_nearest() -> None:
    """The nearest of 1,000,000 random feasible points near the projection is not nearer by more than a tenth."""
    constraint = SparsityConstraint(LARGE, 0.6)
    random = np.random.default_rng(0)
    sizes = np.array(constraint.sizes)
    for _ in range(5):
        c = random.random(4) * LARGE.lattice.highest
        found = constraint.project(c)
        around = np.rint(found * sizes) + random.integers(-4, 5, (200_000, 4))
        tried = np.clip(around / sizes, 0, LARGE.lattice.highest)
        feasible = tried[constraint.violation(tried) <= 0]
        best = np.sqrt(((feasible - c) ** 2).sum(axis=1)).min()
        assert np.linalg.norm(found - c) <= 1.1 * best


def test_projection_is_found_where_a_group_of_few_units_leaps_over_the_band() -> None:
    # Four heads, each a quarter of the width: with one more or less of them all other groups have to take up the rest.
    layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True)
    model = nn.Sequential(nn.Linear(28, 48), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    model.append(nn.Linear(48, 10))
    space = PruningSpace(model.eval(), (torch.randn(2, 5, 28),))
    assert space.lattice.sizes.tolist() == [4, 96, 96, 96]
    constraint = SparsityConstraint(space, 0.5, tolerance=0.02)
    random = np.random.default_rng(0)
    for c in (np.zeros(4), constraint.highest, *(random.random((20, 4)) * constraint.highest)):
        assert constraint.violation(constraint.project(c)) <= 0


def test_projection_of_two_hundred_groups_is_feasible_and_no_single_unit_leads_nearer() -> None:
    constraint = analytic_problem("many groups", (64, 48, 32, 80, 56) * 40).constraint
    sizes = np.array(constraint.sizes)
    c = np.random.default_rng(0).random(200) * constraint.highest
    found = constraint.project(c)
    assert constraint.violation(found) <= 0
    around = np.clip(found + np.vstack([np.diag(1 / sizes), -np.diag(1 / sizes)]), 0, constraint.highest)
    feasible = around[constraint.violation(around) <= 0]
    assert len(feasible)
    assert np.linalg.norm(found - c) <= np.linalg.norm(feasible - c, axis=1).min() + 1e-12


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_counts_along_one_group_are_those_of_each_point(seed: int) -> None:
    """Products of up to three lengths, some of the same group, against Python's integers."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 4, (5, 4))
    monomials = {tuple(sorted(random.integers(0, 5, 1 + i % 3).tolist())): i + 1 for i in range(9)}
    count = Count(constant=7, lengths=lengths, monomials=tuple((n, rows) for rows, n in monomials.items()))
    kept, widths = random.integers(1, 1000, (2, 3)), random.integers(1, 1000, (3, 6))
    found = count.along(kept, widths)
    assert found.shape == (2, 3, 6)
    for n, g, w in np.ndindex(found.shape):
        point = kept[n].copy()
        point[g] = widths[g, w]
        of = [int(row[0]) + sum(int(a) * int(k) for a, k in zip(row[1:], point, strict=True)) for row in lengths]
        exact = 7 + sum(coefficient * math.prod(of[row] for row in rows) for rows, coefficient in monomials.items())
        assert found[n, g, w] == count(point) == exact


def test_projection_respects_round_to_and_gives_mappings_for_mappings() -> None:
    space = space_of(16, 64, 48, 16, round_to=8)
    constraint = SparsityConstraint(space, 0.5, tolerance=0.06)
    c = constraint.project({"0": 0.1, "2": 0.8})
    assert list(c) == ["0", "2"]
    assert space.snap(c) == c
    assert all(kept % 8 == 0 for kept in space.kept_units(c))


@pytest.mark.parametrize("of", ["parameters", "macs"])
def test_gradient_is_the_slope_of_sparsity(of: Any) -> None:
    """On the lattice the count is exact, so differences over one unit give the slope of each multilinear term."""
    constraint = SparsityConstraint(LARGE, 0.5, of=of)
    sizes = np.array(constraint.sizes)
    c = np.array([20, 8, 12, 10]) / sizes
    for g in range(4):
        step = np.zeros(4)
        step[g] = 1 / sizes[g]
        difference = (LARGE.sparsity(c + step, of=of) - LARGE.sparsity(c - step, of=of)) * sizes[g] / 2
        assert constraint.gradient(c)[g] == pytest.approx(difference, rel=1e-9)


def test_sparsity_constraint_is_a_lattice_constraint() -> None:
    constraint = SparsityConstraint(SMALL, 0.5, tolerance=0.02)
    assert isinstance(constraint, LatticeConstraint)
    assert (constraint.names, constraint.sizes) == (("0", "2", "4"), (7, 5, 8))
    assert constraint.attainable == (0.0, SMALL.sparsity(SMALL.lattice.highest))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": 0}, ValueError, r"Expected `target` to be in \(0, 0\.\d+\], but got 0: no more than"),
        ({"target": 1}, ValueError, r"Expected `target` to be in \(0, 0\.\d+\], but got 1: no more than"),
        ({"target": 0.99}, ValueError, r"no more than 0\.\d+ of the parameters can be removed"),
        ({"target": "70%"}, TypeError, r"Expected `target` to be a float, but got '70%'"),
        ({"target": 0.5, "tolerance": 0}, ValueError, r"Expected `tolerance` to be in \(0, 1\), but got 0"),
        (
            {"target": 0.5, "tolerance": 1e-6},
            InfeasibleTargetError,
            r"closest found has sparsity 0.\d+ of the parameters: raise the",
        ),
        ({"target": 0.5, "of": "flops"}, ValueError, r'Expected `of` to be "parameters" or "macs", but got \'flops\''),
    ],
)
def test_wrong_targets_are_said(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SparsityConstraint(SMALL, **arguments)
