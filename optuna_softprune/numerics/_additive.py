"""The feasible point whose groups, each taken alone, cost least together; no metric is called.

| symbol | meaning | shape |
| --- | --- | --- |
| l_g(c) | loss added by removing the fraction c of group g alone: a monotone curve through what was measured | scalar |
| c | a point of the lattice | (G,) |
| a | gradient of the constraint at the last point | (G,) |
| m | multiplier: what a unit of the constraint may cost | scalar |

For a given m each group decides alone: c_g = argmin l_g(c) - m a_g c. The largest m at which the constraint's residual,
counted exactly, is still below the band (curves rise: to remove less is never worse) is found by bisection; a is taken
where that leads, and so on, since what a unit is worth depends on its neighbours' widths. Where curves are not convex a
multiplier leaves gaps: the results are projected, and pairs of groups change against each other as long as that costs
less.
Slopes a that are scattered give more points to begin with. The points of a small lattice are all looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.numerics._probes import levels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]

LINEARISED = 8
# Points with scattered slopes, and the spread of their logarithms.
SCATTERED = 16
SPREAD = 0.7
HALVINGS = 60
# Steps of a move, in levels of the lattice.
STEPS = (1, 2, 4, 8, 16, 32)
# Pairs of moves whose exact size is looked at, in the order of what they save.
TRIED = 512
# Sizes are linearised to choose pairs: how far off they may be, of what each move changes.
SLACK = 0.1
# Lattices of up to so many points are looked at whole.
SMALL_POINTS = 200_000
MOST_MOVES = 500
# What a move has to save, as a share of the sum: far less than a curve through a few levels is off.
LEAST = 1e-5
# How many of the starts, the best ones, are improved.
IMPROVED = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured of a group alone.

    Attributes:
        coefficients: Shape (K,), ascending from 0.
        losses: Shape (K,): what each adds to the loss of the dense network; the first is 0.
    """

    coefficients: FloatArray
    losses: FloatArray

    def at(self, c: FloatArray) -> FloatArray:
        """Return the loss (L,) at coefficients (L,): it never falls, and stays level after the last measured one."""
        from scipy.interpolate import CubicHermiteSpline  # takes a while to import

        rising = np.maximum.accumulate(np.maximum(self.losses, 0))
        curve = CubicHermiteSpline(self.coefficients, rising, _monotone_slopes(self.coefficients, rising))
        found: FloatArray = curve(np.minimum(c, self.coefficients[-1]))
        return found


def curves_alone(constraint: LatticeConstraint, points: Sequence[FloatArray], losses: Sequence[float]) -> list[Curve]:
    """Return what points (G,) and their losses say of each group alone.

    A group of which nothing is known has a curve of one point, and so have all where nothing is known of the dense
    network. Losses that are NaN are left out.
    """
    groups = len(constraint.names)
    known = [(point, loss) for point, loss in zip(points, losses, strict=True) if not math.isnan(loss)]
    dense = next((loss for point, loss in known if not point.any()), math.nan)
    alone: list[dict[float, float]] = [{0.0: 0.0} for _ in range(groups)]
    for point, loss in known if not math.isnan(dense) else ():
        removed = np.flatnonzero(point)
        if len(removed) == 1:
            alone[removed[0]][float(point[removed[0]])] = loss - dense
    return [Curve(*np.array(sorted(each.items())).T) for each in alone]


def _monotone_slopes(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return slopes (K,) at points of a rising curve so that cubics through them rise: exact where y is a parabola.

    Steffen (1990), A simple method for monotonic interpolation in one dimension, Astronomy and Astrophysics 239.
    """
    h, secant = np.diff(x), np.diff(y) / np.diff(x)
    if len(h) == 1:
        return np.repeat(secant, 2)
    inside = (secant[:-1] * h[1:] + secant[1:] * h[:-1]) / (h[:-1] + h[1:])
    inside = np.minimum(inside, 2 * np.minimum(secant[:-1], secant[1:]))
    at, beside = np.array([0, -1]), np.array([1, -2])
    ends = secant[at] + (secant[at] - secant[beside]) * h[at] / (h[at] + h[beside])
    first, last = np.clip(ends, 0, 2 * secant[at])
    slopes: FloatArray = np.r_[first, inside, last]
    return slopes


def least_sum(constraint: LatticeConstraint, curves: Sequence[Curve]) -> FloatArray:
    """Return the feasible lattice point (G,) with the least sum of `curves`, one for each group, that is found."""
    model = _Model(constraint, curves)
    if model.points <= SMALL_POINTS:
        return model.best()
    starts = [np.zeros(len(curves)), *model.balanced(), *model.scattered()]
    points = {point.tobytes(): point for point in map(constraint.project, starts)}
    return min(map(model.improved, sorted(points.values(), key=model.sum)[:IMPROVED]), key=model.sum)


class _Model:
    """The curves on the levels of the lattice."""

    def __init__(self, constraint: LatticeConstraint, curves: Sequence[Curve]) -> None:
        self._constraint = constraint
        self._levels = levels_of(constraint)
        middle = constraint.project(constraint.highest / 2)
        self._width = abs(constraint.residual(middle)) - float(constraint.violation(middle))
        self._losses = [curve.at(levels) for curve, levels in zip(curves, self._levels, strict=True)]
        # Shape (G, L): the same side by side; a group of fewer levels repeats its last, which never comes first.
        longest = max(map(len, self._levels))
        self._ladder, self._lost = (
            np.array([np.pad(each, (0, longest - len(each)), mode="edge") for each in groups])
            for groups in (self._levels, self._losses)
        )

    @property
    def points(self) -> int:
        """How many points the lattice has."""
        return math.prod(map(len, self._levels))

    def best(self) -> FloatArray:
        """Return the best of all feasible points (G,)."""
        everything = np.stack(np.meshgrid(*self._levels, indexing="ij"), -1).reshape(-1, len(self._levels))
        total: FloatArray = sum(np.meshgrid(*self._losses, indexing="ij", sparse=True), np.zeros(()))
        allowed = np.flatnonzero(self._constraint.violation(everything) <= 0)
        found: FloatArray = everything[allowed[total.reshape(-1)[allowed].argmin()]]
        return found

    def sum(self, c: FloatArray) -> float:
        """Return the summed loss at a lattice point (G,)."""
        return float(sum(losses[at] for losses, at in zip(self._losses, self._places(c), strict=True)))

    def balanced(self) -> list[FloatArray]:
        """Return points (G,) where the last unit of every group is worth the same, each with slopes of the last."""
        points = [self._constraint.project(self._constraint.highest / 2)]
        for _ in range(LINEARISED):
            point = self._at_target(self._constraint.gradient(points[-1]))
            if any(np.array_equal(point, before) for before in points):
                break
            points.append(point)
        return points

    def scattered(self) -> list[FloatArray]:
        """Return points (G,) of slopes that are scattered at random, always the same."""
        a = self._constraint.gradient(self._constraint.project(self._constraint.highest / 2))
        scatter = np.exp(SPREAD * np.random.default_rng(0).standard_normal((SCATTERED, len(a))))
        return [self._at_target(a * each) for each in scatter]

    def _at_target(self, a: FloatArray) -> FloatArray:
        """Return the point (G,) of the largest multiplier at which too little is removed."""
        most = max(float(losses[-1]) for losses in self._losses) or 1.0
        low, high = 1e-9 * most, 1e9 * most
        for _ in range(HALVINGS):
            middle = float(np.sqrt(low * high))
            if self._constraint.residual(self._cheapest(middle, a)) < -self._width:
                low = middle
            else:
                high = middle
        return self._cheapest(low, a)

    def _cheapest(self, multiplier: float, a: FloatArray) -> FloatArray:
        """Return argmin l_g(c) - multiplier a_g c for each group (G,)."""
        cheapest = np.argmin(self._lost - multiplier * a[:, None] * self._ladder, axis=1)
        found: FloatArray = np.take_along_axis(self._ladder, cheapest[:, None], axis=1)[:, 0]
        return found

    def _places(self, c: FloatArray) -> list[int]:
        """Return which level of its group each coefficient (G,) is."""
        return [int(np.abs(levels - each).argmin()) for levels, each in zip(self._levels, c, strict=True)]

    def improved(self, c: FloatArray) -> FloatArray:
        """Change one group, or two against each other, as long as the sum falls; c (G,) is feasible."""
        for _ in range(MOST_MOVES):
            better = self._better(c)
            if better is None:
                break
            c = better
        return c

    def _better(self, c: FloatArray) -> FloatArray | None:
        """Return c (G,) after the changes of one group or two that save most; None if none saves and is feasible."""
        groups, to, saved = self._moves(c)
        shift = self._constraint.gradient(c)[groups] * (to - c[groups])
        residual = self._constraint.residual(c)
        first, second = np.triu_indices(len(groups))
        total = saved[first] + np.where(first == second, 0, saved[second])
        other = np.where(first == second, 0, shift[second])
        slack = SLACK * (np.abs(shift[first]) + np.abs(other))
        near = np.abs(residual + shift[first] + other) <= self._width + slack
        apart = (groups[first] != groups[second]) | (first == second)
        chosen = np.flatnonzero(near & apart & (total > LEAST * abs(self.sum(c))))
        chosen = chosen[np.argsort(-total[chosen], kind="stable")[:TRIED]]
        if not len(chosen):
            return None
        tried = np.repeat(c[None], len(chosen), axis=0)
        rows = np.arange(len(chosen))
        tried[rows, groups[first[chosen]]] = to[first[chosen]]
        tried[rows, groups[second[chosen]]] = to[second[chosen]]
        tried = tried[self._constraint.violation(tried) <= 0]
        if not len(tried):
            return None
        # Moves of other groups save what they save: as many together as may be.
        moved = tried != c
        used, apart_from = moved[0].copy(), [0]
        for row, each in enumerate(moved[1:], 1):
            if not (used & each).any():
                used |= each
                apart_from.append(row)
        together = c + np.cumsum(tried[apart_from] - c, axis=0)
        together = self._constraint.snap(np.clip(together, 0, self._constraint.highest))
        allowed: FloatArray = together[np.argmin(np.r_[self._constraint.violation(together) <= 0, False]) - 1]
        return allowed

    def _moves(self, c: FloatArray) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Return group, new coefficient and loss saved (M,) of all changes of one group."""
        found = [
            (group, levels[place + step], losses[place] - losses[place + step])
            for group, (levels, losses, place) in enumerate(
                zip(self._levels, self._losses, self._places(c), strict=True)
            )
            for step in (*STEPS, *(-step for step in STEPS))
            if 0 <= place + step < len(levels)
        ]
        groups, to, saved = zip(*found, strict=True)
        return np.array(groups, np.int64), np.array(to, np.float64), np.array(saved, np.float64)
