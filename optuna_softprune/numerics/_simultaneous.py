"""Descent whose cost a step does not grow with the groups: a fixed number of probes, and all that is known.

| symbol | meaning | shape |
| --- | --- | --- |
| x | the current point of the lattice | (G,) |
| q | the response surface around x, of every point that is known: `response` | |
| d | the step to the lowest point of q along the constraint, no coefficient moving by more than rho | (G,) |
| z | random directions along the constraint that move all groups at once, as in SPSA (Spall, 1992) | (G,) |

The point x + d and probes at x + d + h z are asked for together. The best of them is the next x; where none is
better, h and rho shrink. Spall averages many steps of random directions; here a probe is not forgotten: each tells the
surface of the next steps about one more direction.
"""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.numerics._probes import smallest_step
from optuna_softprune.numerics._response import Surface, lowest, response
from optuna_softprune.numerics._search import Batch, Evaluation, Report, Search

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]

# Points that are asked for at once.
POINTS = 8
# Draws for each of them before a surrounding counts as known.
DRAWS = 8
# What h and rho are multiplied by after a failure, and rho after a step as long as it may be.
FINER, SHORTER, LONGER = 0.7, 0.5, 1.5
SHORTEST = 0.01


def descend_simultaneously(
    constraint: LatticeConstraint,
    x: FloatArray,
    at_x: Evaluation,
    known: Mapping[bytes, Evaluation],
    *,
    step: float,
    rate: float,
    seed: int,
) -> Search[Report]:
    """Search from a feasible point x (G,) until nothing near it is better.

    Args:
        constraint: What must hold.
        x: Where to begin.
        at_x: What is known of it.
        known: What is known of all points, by their bytes; it grows while the search runs.
        step: How far probes are, the standard deviation h of each coefficient at the beginning.
        rate: How far a coefficient may move in a step, rho at the beginning.
        seed: Of the directions, together with the start.
    """
    random = np.random.default_rng([seed, zlib.crc32(x.tobytes())])
    smallest = smallest_step(constraint)
    for iteration in itertools.count(1):
        points = _points(constraint, x, at_x, known, np.maximum(step, smallest), rate, random)
        answers = (yield Batch(tuple(points), "probe", iteration)) if points else []
        before = x
        for point, found in zip(points, answers, strict=True):
            if found.rank < at_x.rank:
                x, at_x = point, found
        if x is not before:
            rate = min(1.0, LONGER * rate) if np.abs(x - before).max() > SHORTER * rate else rate
        elif (step <= smallest).all():
            break
        else:
            step, rate = FINER * step, max(SHORTER * rate, SHORTEST)
    return Report(True, iteration, "No probe of the smallest size is better.")


def _points(
    constraint: LatticeConstraint,
    x: FloatArray,
    at_x: Evaluation,
    known: Mapping[bytes, Evaluation],
    step: FloatArray,
    rate: float,
    random: np.random.Generator,
) -> list[FloatArray]:
    """Return feasible points that are not known: where the surface is lowest, and others around."""
    highest, a = constraint.highest, constraint.gradient(x)
    d = _step(at_x, response(constraint, x, at_x, known), np.maximum(-rate, -x), np.minimum(rate, highest - x), a)
    middle = np.clip(x + d, 0, highest)
    found: dict[bytes, FloatArray] = {}
    for draw in range(POINTS * DRAWS):
        z = random.standard_normal(len(x)) * step if draw else np.zeros(len(x))
        z -= a * (a @ z) / (a @ a)
        point = constraint.project(np.clip(middle + z, 0, highest))
        if point.tobytes() not in known:
            found.setdefault(point.tobytes(), point)
        if len(found) == POINTS:
            break
    return list(found.values())


def _step(at_x: Evaluation, surfaces: Surface, low: FloatArray, high: FloatArray, a: FloatArray) -> FloatArray:
    """Return the step (G,) down the loss; where requirements are violated, down these."""
    values = np.array(at_x.violations)
    violated = values > 0
    goal = surfaces.sum(np.r_[not violated.any(), violated])
    bounds = np.column_stack([values, surfaces.slope[1:]])[~violated]
    return lowest(goal, low, high, a, bounds)
