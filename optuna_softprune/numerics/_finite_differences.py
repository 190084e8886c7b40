"""Projected quasi-Newton descent with finite differences along the surface of the constraint.

| symbol | meaning | shape |
| --- | --- | --- |
| x | the current point of the lattice | (G,) |
| n | units of each group | (G,) |
| a | gradient of the constraint at x; a . d = 0 is along its surface | (G,) |
| u | probe step, whole units of each group, about h of it | (G,) |
| D, r | displacements of the probes from x along the surface, and the differences of the loss | (P, G), (P,) |
| g | gradient along the surface: the smallest solution of min over g of |D g - r|^2 | (G,) |
| B | approximation of the Hessian (BFGS, damped) | (G, G) |
| d | step: min g . d + d B d / 2 with a . d = 0, on the free side of the bounds and of the requirements | (G,) |

Probes move one group by u and the others so that the constraint still holds: each is a candidate of its own. Where
rounding to whole units bends a probe, D has what really moved. When no step and no probe is better, h is halved, as in
implicit filtering (Kelley, 2011, Implicit Filtering, SIAM); at the smallest step of every group the run has converged.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.numerics._probes import Scheme, probe_step, smallest_step
from optuna_softprune.numerics._search import Batch, Evaluation, Report, Search

if TYPE_CHECKING:
    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]
BACKTRACKS = 4
SHRINK = 0.4
GROW = 2.0
# A probe that rounds to where it began is lengthened: on coarse lattices the others cannot follow a single unit.
LONGER = (1, 2, 4, 8)
# Longest step, in the Euclidean distance of coefficients.
LONGEST = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FiniteDifferences:
    """Settings of a run.

    Attributes:
        scheme: One probe a group, or one on each side.
        step: Probe step h at the beginning, a fraction of a group.
        rate: Length of the first step, in the Euclidean distance of coefficients.
    """

    scheme: Scheme
    step: float
    rate: float


@dataclass(slots=True)
class _Slopes:
    """Gradients along the surface: of the loss (G,) and of the requirements (K, G)."""

    loss: FloatArray
    requirements: FloatArray


@dataclass(slots=True)
class _Best:
    """The best point so far."""

    x: FloatArray
    found: Evaluation

    def takes(self, x: FloatArray, found: Evaluation) -> bool:
        """Take a point if it is better; return whether it is."""
        better = found.rank < self.found.rank
        if better:
            self.x, self.found = x, found
        return better


def descend(
    constraint: LatticeConstraint, x: FloatArray, at_x: Evaluation, settings: FiniteDifferences
) -> Search[Report]:
    """Search from a feasible point x (G,) until it has converged."""
    highest, smallest = constraint.highest, smallest_step(constraint)
    h, length = settings.step, settings.rate
    hessian: FloatArray | None = None
    before = x, np.zeros(len(x))
    for iteration in itertools.count(1):
        units, a = probe_step(constraint, h, smallest), constraint.gradient(x)
        probes = _probes(constraint, x, a, units, settings.scheme, toward=-before[1])
        answers = (yield Batch(tuple(probes), "probe", iteration)) if probes else []
        known = [(point, found) for point, found in zip(probes, answers, strict=True) if not found.failed]
        best = _Best(x, at_x)
        for point, found in known:
            best.takes(point, found)
        slopes = _slopes(x, at_x, known, a)
        if hessian is None:
            hessian = np.eye(len(x)) * max(float(np.linalg.norm(slopes.loss)), 1e-12) / settings.rate
        else:
            hessian = _updated(hessian, x - before[0], slopes.loss - before[1])
        before = x, slopes.loss
        d = _direction(x, at_x, highest, a, slopes, hessian)
        if d.any():
            length = yield from _line_search(constraint, x, d, length, best, iteration)
        if best.found.rank < at_x.rank:
            x, at_x = best.x, best.found
        elif (units <= smallest).all():
            break
        else:
            h /= 2
            length = max(2 * h, length / 4)
    return Report(True, iteration, "No probe and no step of the smallest size is better.")


def _line_search(
    constraint: LatticeConstraint, x: FloatArray, d: FloatArray, length: float, best: _Best, iteration: int
) -> Search[float]:
    """Look along d for a point that is better than `best`; return the length to begin with the next time."""
    longest = float(np.linalg.norm(d))

    def at(t: float) -> FloatArray:
        return constraint.project(np.clip(x + t / longest * d, 0, constraint.highest))

    t = min(length, longest)
    for attempt in range(BACKTRACKS):
        point = at(t)
        if np.array_equal(point, x):
            return length
        (found,) = yield Batch((point,), "step", iteration)
        if best.takes(point, found):
            while attempt == 0 and t * GROW <= LONGEST:  # a first step that helps is lengthened
                point = at(GROW * t)
                (found,) = yield Batch((point,), "step", iteration)
                if not best.takes(point, found):
                    break
                t *= GROW
            return t * GROW
        t *= SHRINK
    return t


def _probes(
    constraint: LatticeConstraint, x: FloatArray, a: FloatArray, units: FloatArray, scheme: Scheme, toward: FloatArray
) -> list[FloatArray]:
    """Return feasible lattice points beside x, each but x once."""
    highest = constraint.highest
    signs = np.where(x <= 0, 1.0, np.where(x >= highest, -1.0, np.where(toward < 0, -1.0, 1.0)))
    found: dict[bytes, FloatArray] = {x.tobytes(): x}
    for group, unit in enumerate(units):
        along = -a * a[group] / (a @ a)
        along[group] += 1
        for sign in (1.0, -1.0) if scheme == "central" else (signs[group],):
            for longer in LONGER:
                point = constraint.project(np.clip(x + longer * sign * unit * along, 0, highest))
                if not np.array_equal(point, x):
                    break
            found.setdefault(point.tobytes(), point)
    return list(found.values())[1:]


def _slopes(x: FloatArray, at_x: Evaluation, known: list[tuple[FloatArray, Evaluation]], a: FloatArray) -> _Slopes:
    if not known:
        return _Slopes(np.zeros(len(x)), np.zeros((len(at_x.violations), len(x))))
    moved = np.array([point - x for point, _ in known])
    moved -= np.outer(moved @ a, a) / (a @ a)
    differences = np.array(
        [[found.loss - at_x.loss, *np.subtract(found.violations, at_x.violations)] for _, found in known]
    )
    slopes = np.linalg.lstsq(moved, differences, rcond=1e-3)[0].T
    return _Slopes(slopes[0], slopes[1:])


def _updated(hessian: FloatArray, s: FloatArray, y: FloatArray) -> FloatArray:
    """Return the BFGS update for a step s and a difference y of gradients, damped as Powell does."""
    if not s.any():
        return hessian
    curved = hessian @ s
    sBs, sy = float(s @ curved), float(s @ y)
    if sy < 0.2 * sBs:
        theta = 0.8 * sBs / (sBs - sy)
        y = theta * y + (1 - theta) * curved
    return hessian - np.outer(curved, curved) / sBs + np.outer(y, y) / float(s @ y)


def _direction(
    x: FloatArray, at_x: Evaluation, highest: FloatArray, a: FloatArray, slopes: _Slopes, hessian: FloatArray
) -> FloatArray:
    """Return the step d (G,); where a requirement is violated, straight towards meeting it, as far as may be."""
    from scipy.linalg import null_space

    values = np.array(at_x.violations)
    violated = values > 0
    g = slopes.requirements[violated].sum(axis=0) if violated.any() else slopes.loss
    curvature = np.eye(len(x)) if violated.any() else hessian
    free = np.ones(len(x), bool)
    held = violated.copy()
    while free.any():
        rows = np.vstack([a, slopes.requirements[held & ~violated]])[:, free]
        z = null_space(rows)
        d = np.zeros(len(x))
        if z.shape[1]:
            d[free] = -z @ np.linalg.solve(z.T @ curvature[np.ix_(free, free)] @ z, z.T @ g[free])
        outward = free & (((x <= 0) & (d < 0)) | ((x >= highest) & (d > 0)))
        crossed = ~held & (values + slopes.requirements @ d > 0)
        if not outward.any() and not crossed.any():
            return d / (np.linalg.norm(d) or 1.0) * LONGEST if violated.any() else d
        free &= ~outward
        held |= crossed
    return np.zeros(len(x))
