"""A quadratic response surface: what is known of the loss around a point, from whatever points were evaluated.

| symbol | meaning | shape |
| --- | --- | --- |
| x | the point in the middle | (G,) |
| a | gradient of the constraint at x | (G,) |
| d, r | displacements of known points from x, and the differences of the loss | (N, G), (N,) |
| m | what a unit of the constraint costs, the same in every group | scalar |
| s, k | how far slope and curvature of each group are off it | (G,), (G,) |
| e | how far off the surface may be at a known point | (N,) |

    r(d) = sum_g a_g ((m + s_g) d_g + (m + k_g) d_g^2 / 2)

Groups do not act on each other in it: what they do is what e allows for, growing with the square of the distance, so
near points say how the loss falls and far ones how it bends. m, s and k minimise |(r(d) - r) / e|^2 + |s|^2 + |k|^2.
Where nothing is known, every group costs m for what it removes: there is no direction along the constraint to prefer.
Losses in other units give the same surface in those units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna_softprune.coefficients import LatticeConstraint
    from optuna_softprune.numerics._search import Evaluation

FloatArray = NDArray[np.float64]

# e = CROSS |a d^2| + FLAT |a d|: what groups do together, and what little rounding does.
CROSS, FLAT = 0.1, 1e-3
# The weight of m^2 beside those of s^2 and k^2, which are 1: as good as none.
FREE = 1e-6
# Points that are looked at, for each of the 2 G + 1 unknown numbers; the nearest ones.
POINTS_EACH = 3
# How exactly a multiplier is found, of its range, how often that is made wider before, and rounds over all of them.
EXACT, WIDER, ROUNDS = 1e-14, 20, 8


@dataclass(frozen=True, slots=True)
class Surface:
    """Losses around a point: slope and curvature of each group.

    Attributes:
        slope: Shape (G,), or (1 + K, G) of several.
        curvature: The same shape.
    """

    slope: FloatArray
    curvature: FloatArray

    def at(self, d: FloatArray) -> float:
        """Return by how much the loss changes with a step d (G,)."""
        return float(self.slope @ d + self.curvature @ d**2 / 2)

    def sum(self, chosen: NDArray[np.bool_]) -> Surface:
        """Return the sum of the `chosen` (1 + K,) of surfaces (1 + K, G)."""
        return Surface(self.slope[chosen].sum(axis=0), self.curvature[chosen].sum(axis=0))


def response(
    constraint: LatticeConstraint, x: FloatArray, at_x: Evaluation, known: Mapping[bytes, Evaluation]
) -> Surface:
    """Return the surfaces (1 + K, G) of the loss and of the requirements around x (G,).

    Args:
        constraint: The constraint.
        x: The point.
        at_x: What is known of it.
        known: What is known of other points, by their bytes.
    """
    a = constraint.gradient(x)
    found = {point: each for point, each in known.items() if not each.failed}
    d = np.array([np.frombuffer(point) for point in found]).reshape(-1, len(x)) - x
    r = np.array([[each.loss - at_x.loss, *np.subtract(each.violations, at_x.violations)] for each in found.values()])
    e = CROSS * np.linalg.norm(a * d**2, axis=1) + FLAT * np.linalg.norm(a * d, axis=1)
    nearest = np.argsort(e, kind="stable")[: POINTS_EACH * (2 * len(x) + 1)]
    nearest = nearest[e[nearest] > 0]
    if not len(nearest):
        flat = np.zeros((1 + len(at_x.violations), len(x)))
        return Surface(flat, flat)
    d, r, e = d[nearest], r[nearest], e[nearest, None]
    common = np.hstack([a * d, a * d**2 / 2])
    solved = _ridge(np.hstack([common, common.sum(axis=1, keepdims=True)]) / e, r / e)
    s, k, m = solved[: len(x)], solved[len(x) : -1], solved[-1]
    return Surface((a[:, None] * (m + s)).T, (a[:, None] * (m + k)).T)


def _ridge(rows: FloatArray, values: FloatArray) -> FloatArray:
    """Return argmin (P, Q) of |rows @ found - values|^2 + |found|^2, but for the last of P, which is free."""
    prior = np.ones(rows.shape[1])
    prior[-1] = FREE
    if len(rows) < len(prior):
        weighted = (rows / prior).T
        return np.asarray(weighted @ np.linalg.solve(rows @ weighted + np.eye(len(rows)), values))
    return np.asarray(np.linalg.solve(rows.T @ rows + np.diag(prior), rows.T @ values))


def lowest(
    surface: Surface, low: FloatArray, high: FloatArray, a: FloatArray, bounds: FloatArray, amount: float = 0.0
) -> FloatArray:
    """Return the step d (G,) to the lowest point of a surface (G,) within a box, along the constraint or beyond it.

    Args:
        surface: Slope and curvature of each group.
        low: Shape (G,): the box, at most 0.
        high: Shape (G,): the box, at least 0.
        a: Shape (G,): a . d = `amount` must hold, as far as the box allows it.
        bounds: Shape (K, 1 + G): rows (v, b), for which v + b . d <= 0 should hold; v is at most 0.
        amount: How much more the constraint's left side shall become.

    For given multipliers of these each group decides alone; they are found one after another.
    """
    offsets, rows = np.r_[-amount, bounds[:, 0]], np.vstack([a, bounds[:, 1:]])
    multipliers = np.zeros(len(rows))

    bent = surface.curvature > 0
    divisor = np.where(bent, surface.curvature, 1)
    # Where the surface is not bent upwards, the lower end is at the bottom while the slope is above this.
    turns = -surface.curvature * (low + high) / 2

    def step(multipliers: FloatArray) -> FloatArray:
        slope = surface.slope + multipliers @ rows
        bottom = np.minimum(np.maximum(-slope / divisor, low), high)
        return np.where(bent, bottom, np.where(slope >= turns, low, high))

    for _ in range(ROUNDS if len(bounds) else 1):
        for i, row in enumerate(rows):
            scale = float(np.abs(surface.slope).max() + np.abs(surface.curvature).max()) / float(np.abs(row).max() or 1)

            def excess(multiplier: float, i: int = i, row: FloatArray = row) -> float:
                multipliers[i] = multiplier
                return float(offsets[i] + row @ step(multipliers))

            multipliers[i] = _root(excess, 0.0 if i else -scale, scale)
    return step(multipliers)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that falls is 0, in [low, high] or further out; 0 is never passed by `low`."""
    for _ in range(WIDER):
        if falling(high) <= 0:
            break
        high *= 4
    for _ in range(WIDER):
        if falling(low) > 0:
            break
        low *= 4
    if falling(high) > 0 or falling(low) <= 0:
        return high
    from scipy.optimize import brentq  # takes a while to import

    return float(brentq(falling, low, high, xtol=EXACT * (high - low), maxiter=WIDER * 10, disp=False))
