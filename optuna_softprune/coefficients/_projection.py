"""The nearest lattice point at which a count that never rises with what is removed lies in a band.

| symbol | meaning | shape |
| --- | --- | --- |
| c | the point to project, fractions removed | (G,) |
| r | units removed | (..., G) |
| n | units of each group | (G,) |
| f(r) | excess over the middle of the band; falls as r rises | (...) |
| w | half the width of the band: |f(r)| <= w is feasible | scalar |
| d(r) | sum_g (r_g / n_g - c_g)^2 | (...) |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna_softprune.coefficients._lattice import Lattice

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Excess = Callable[[NDArray[Any]], FloatArray]

# Lattices of up to so many points are small: all their feasible points are listed once, in 0.1 s.
SMALL_POINTS = 200_000
# With up to so many groups a step may change two of them; with more the pairs become too many.
PAIRED_GROUPS = 24


def is_small(lattice: Lattice) -> bool:
    """Whether all feasible points of a lattice can be listed."""
    return bool(np.prod([float(len(levels)) for levels in lattice.levels]) <= SMALL_POINTS)


def project(
    lattice: Lattice, c: FloatArray, excess: Excess, width: float, feasible: IntArray | None
) -> IntArray | None:
    """Return the units removed (G,) at a near point of the band, or None if no point was found in it.

    Truly nearest when the nearest of all lattice points is in the band, and when all `feasible` points (N, G) are
    given; else the best point that changes of one or two groups do not improve.
    """
    snapped = lattice.removed(c)
    if abs(excess(snapped[None])[0]) <= width:
        return snapped
    if feasible is not None:
        return _nearest(lattice, feasible, c)
    found = _adjusted(lattice, c, _on_surface(lattice, c, excess), excess, width)
    return None if found is None else _improved(lattice, c, found, excess, width)


def closest(lattice: Lattice, excess: Excess) -> IntArray:
    """Return the units removed (G,) with the smallest |f| among those that were looked at."""
    best = np.array([levels[0] for levels in lattice.levels])
    for share in np.linspace(0, 1, 33):
        base = lattice.removed(share * lattice.highest)
        tried = np.concatenate([_along(lattice, base, g) for g in range(len(base))])
        tried = np.concatenate([tried, best[None]])
        best = tried[np.abs(excess(tried)).argmin()]
    return best


def _distance(lattice: Lattice, removed: IntArray, c: FloatArray) -> FloatArray:
    distance: FloatArray = ((removed / lattice.sizes - c) ** 2).sum(axis=-1)
    return distance


def _nearest(lattice: Lattice, points: IntArray, c: FloatArray) -> IntArray | None:
    """Return the nearest of points (N, G), the first of equals; None if there are none."""
    if not len(points):
        return None
    nearest: IntArray = points[_distance(lattice, points, c).argmin()]
    return nearest


def _nearest_feasible(
    lattice: Lattice, tried: IntArray, c: FloatArray, excess: Excess, width: float
) -> IntArray | None:
    """Return the nearest of points (T, G) that is in the band."""
    return _nearest(lattice, tried[np.abs(excess(tried)) <= width], c)


def _on_surface(lattice: Lattice, c: FloatArray, excess: Excess) -> FloatArray:
    """Return the point on f = 0 that c + t g reaches, clipped to the box, with g the slope of -f at c."""
    point = np.clip(c, 0, lattice.highest)
    step = np.diag(0.5 / lattice.sizes)
    ahead, behind = np.minimum(point + step, lattice.highest), np.maximum(point - step, 0)
    width = np.diagonal(ahead - behind)
    slope = (excess(behind * lattice.sizes) - excess(ahead * lattice.sizes)) / width
    direction = slope / np.linalg.norm(slope)

    def at(t: float) -> FloatArray:
        moved: FloatArray = np.clip(point + t * direction, 0, lattice.highest)
        return moved

    def value(t: float) -> float:

        return float(excess((at(t) * lattice.sizes)[None])[0])

    reach = 1 / float(direction[direction > 0].min())  # there every group that counts is at an end of its range
    if value(-reach) <= 0 or value(reach) >= 0:
        return at(-reach if value(-reach) <= 0 else reach)
    from scipy.optimize import brentq

    return at(brentq(value, -reach, reach, xtol=1e-6 * reach, rtol=1e-6))


def _along(lattice: Lattice, base: IntArray, group: int) -> IntArray:
    """Return the points (levels, G) that differ from `base` in one group."""
    line = np.repeat(base[None], len(lattice.levels[group]), axis=0)
    line[:, group] = lattice.levels[group]
    return line


def _adjusted(lattice: Lattice, c: FloatArray, start: FloatArray, excess: Excess, width: float) -> IntArray | None:
    """Round to the lattice and let one group, or else two, take up the rest."""
    base = lattice.removed(start)
    groups = range(len(base))
    tried = np.concatenate([_along(lattice, base, g) for g in groups])
    found = _nearest_feasible(lattice, tried, c, excess, width)
    if found is not None:
        return found
    near = tried[np.argsort(np.abs(excess(tried)), kind="stable")[:64]]
    tried = np.concatenate([_along(lattice, point, g) for point in near for g in groups])
    return _nearest_feasible(lattice, tried, c, excess, width)


def _improved(lattice: Lattice, c: FloatArray, point: IntArray, excess: Excess, width: float) -> IntArray:
    """Change one or two groups by a level as long as that leads nearer."""
    groups = len(point)
    single = [(g, s) for g in range(groups) for s in (-1, 1)]
    moves: list[tuple[tuple[int, int], ...]] = [(move,) for move in single]
    if groups <= PAIRED_GROUPS:
        moves += [pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0]]
    shifts = np.zeros((len(moves), groups), np.int64)
    for i, move in enumerate(moves):
        for group, step in move:
            shifts[i, group] = step
    last = np.array([len(levels) - 1 for levels in lattice.levels])
    while True:
        at = np.array([np.searchsorted(levels, point[g]) for g, levels in enumerate(lattice.levels)])
        places = np.clip(at + shifts, 0, last)
        tried = np.stack([levels[places[:, g]] for g, levels in enumerate(lattice.levels)], axis=-1)
        distance = _distance(lattice, tried, c)
        nearer = tried[distance < _distance(lattice, point, c)]
        found = _nearest_feasible(lattice, nearer, c, excess, width) if len(nearer) else None
        if found is None:
            return point
        point = found
