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
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna_softprune.coefficients._lattice import Lattice

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Lattices of up to so many points are small: all their feasible points are listed once, in 0.1 s.
SMALL_POINTS = 200_000
# With up to so many groups a step may change two of them; with more the pairs become too many.
PAIRED_GROUPS = 24
# So many changes of one group are looked at together, where none of two is.
SEVERAL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The points whose excess is small enough.

    Attributes:
        excess: Units removed (..., G) -> f (...).
        along: Units removed (N, G), levels (G, L) -> f (N, G, L) when one group alone changes, to a level of its row.
        slope: Coefficients (G,) -> the slope (G,) of -f by them.
        width: w.
    """

    excess: Callable[[NDArray[Any]], FloatArray]
    along: Callable[[IntArray, IntArray], FloatArray]
    slope: Callable[[FloatArray], FloatArray]
    width: float

    def holds(self, removed: IntArray) -> NDArray[np.bool_]:
        """Return whether points (..., G) are in the band."""
        inside: NDArray[np.bool_] = np.abs(self.excess(removed)) <= self.width
        return inside


def is_small(lattice: Lattice) -> bool:
    """Whether all feasible points of a lattice can be listed."""
    return math.prod(len(levels) for levels in lattice.levels) <= SMALL_POINTS


def project(lattice: Lattice, c: FloatArray, band: Band, feasible: Callable[[], IntArray] | None) -> IntArray | None:
    """Return the units removed (G,) at a near point of the band, or None if no point was found in it.

    Truly nearest when the nearest of all lattice points is in the band, and when `feasible` lists all
    points (N, G) of the band; else the best point that changes of one or two groups do not improve.
    """
    snapped = lattice.removed(c)
    if band.holds(snapped):
        return snapped
    if feasible is not None:
        return _nearest(lattice, feasible(), c)
    found = _adjusted(lattice, c, _on_surface(lattice, c, band), band)
    if found is None:  # a group of few units may leap over the band, and others then take up more than two can
        found = closest(lattice, band)
    return _improved(lattice, c, found, band) if band.holds(found) else None


def closest(lattice: Lattice, band: Band) -> IntArray:
    """Return the units removed (G,) with the smallest |f| among those that were looked at."""
    best = np.array([levels[0] for levels in lattice.levels])
    for share in np.linspace(0, 1, 33):
        base = lattice.removed(share * lattice.highest)
        step = int(np.abs(band.along(base[None], lattice.ladder)).argmin())
        tried = np.stack([_changed(base, lattice.ladder, step), best])
        best = tried[np.abs(band.excess(tried)).argmin()]
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


def _on_surface(lattice: Lattice, c: FloatArray, band: Band) -> FloatArray:
    """Return the point on f = 0 that c + t g reaches, clipped to the box, with g the slope of -f at c."""
    slope = band.slope(c)
    direction = slope / np.linalg.norm(slope)

    def at(t: float) -> FloatArray:
        moved: FloatArray = np.clip(c + t * direction, 0, lattice.highest)
        return moved

    def value(t: float) -> float:
        return float(band.excess(at(t) * lattice.sizes))

    reach = 1 / float(direction[direction > 0].min())  # there every group that counts is at an end of its range
    if value(-reach) <= 0 or value(reach) >= 0:
        return at(-reach if value(-reach) <= 0 else reach)
    from scipy.optimize import brentq

    return at(brentq(value, -reach, reach, xtol=1e-6 * reach, rtol=1e-6))


def _changed(base: IntArray, levels: IntArray, index: int) -> IntArray:
    """Return `base` (G,) with one group at the level of that flat index into levels (G, L)."""
    changed = base.copy()
    changed[index // levels.shape[1]] = levels.flat[index]
    return changed


def _nearest_along(lattice: Lattice, bases: IntArray, levels: IntArray, c: FloatArray, band: Band) -> IntArray | None:
    """Return the nearest point of the band that differs from one of (N, G) in one group, at one of `levels` (G, L)."""
    inside = np.abs(band.along(bases, levels)) <= band.width
    if not inside.any():
        return None
    moved = (levels / lattice.sizes[:, None] - c[:, None]) ** 2
    others = _distance(lattice, bases, c)[:, None] - (bases / lattice.sizes - c) ** 2
    index = int(np.where(inside, others[..., None] + moved, np.inf).argmin())
    return _changed(bases[index // levels.size], levels, index % levels.size)


def _adjusted(lattice: Lattice, c: FloatArray, start: FloatArray, band: Band) -> IntArray | None:
    """Round to the lattice and let one group, or else two, take up the rest."""
    base = lattice.removed(start)
    found = _nearest_along(lattice, base[None], lattice.ladder, c, band)
    if found is not None:
        return found
    repeated = np.diff(lattice.ladder, axis=1, prepend=-1) == 0
    excess = np.where(repeated, np.inf, np.abs(band.along(base[None], lattice.ladder)))
    near = [_changed(base, lattice.ladder, int(i)) for i in np.argsort(excess, axis=None, kind="stable")[:64]]
    return _nearest_along(lattice, np.array(near), lattice.ladder, c, band)


def _improved(lattice: Lattice, c: FloatArray, point: IntArray, band: Band) -> IntArray:
    """Change one or two groups by a level as long as that leads nearer."""
    shifts, last = _paired_shifts(len(point)), lattice.ladder.shape[1] - 1
    groups = np.arange(len(point))
    while True:
        at = (lattice.ladder < point[:, None]).sum(axis=1)
        found = _nearer(lattice, c, point, at, band, 1 if len(shifts) else SEVERAL)
        if len(shifts):
            paired = lattice.ladder[groups, np.clip(at + shifts, 0, last)]
            paired = paired[_distance(lattice, paired, c) < _distance(lattice, point, c)]
            tried = np.concatenate([[point, found], paired[band.holds(paired)]])
            found = tried[_distance(lattice, tried, c).argmin()]
        if (found == point).all():
            return point
        point = found


def _nearer(lattice: Lattice, c: FloatArray, point: IntArray, at: IntArray, band: Band, several: int) -> IntArray:
    """Return where changes of one group by a level lead from a point (G,) of the band; the point if to none nearer.

    Each change is the one that leads nearest in the band; up to `several` follow each other. `at` (G,) is the level of
    each group.
    """
    groups, last = np.arange(len(point)), lattice.ladder.shape[1] - 1
    toward = np.sign(np.rint(c * lattice.sizes - point)).astype(int)
    steps = [lattice.ladder[groups, np.clip(at + n * toward, 0, last)] for n in range(3)]
    off = [(step / lattice.sizes - c) ** 2 for step in steps]
    gain, after = off[0] - off[1], off[1] - off[2]
    order = np.argsort(_distance(lattice, point, c) - off[0] + off[1], kind="stable")
    order = order[gain[order] > 0]
    # A second change of the same group has its turn before changes that gain less.
    second = np.maximum.accumulate(np.r_[0, after[order]])[:-1]
    first = order[: np.argmin(np.r_[gain[order] >= second, False])][:several]
    alone = np.where(np.eye(len(point), dtype=bool)[order], steps[1], point)
    together = point + np.cumsum(alone[: len(first)] - point, axis=0)
    allowed = int(np.argmin(np.r_[band.holds(together), False]))
    if allowed:
        return np.asarray(together[allowed - 1])
    inside = np.flatnonzero(band.holds(alone))
    return np.asarray(alone[inside[0]]) if len(inside) else point


def _paired_shifts(groups: int) -> IntArray:
    """Return the changes (P, G) of two of the groups by a level; none of more than `PAIRED_GROUPS`."""
    single = [(g, s) for g in range(groups) for s in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(single, 2) if a[0] != b[0]] if groups <= PAIRED_GROUPS else []
    shifts = np.zeros((len(pairs), groups), np.int64)
    for i, pair in enumerate(pairs):
        for group, step in pair:
            shifts[i, group] = step
    return shifts
