"""The largest sparsity at which requirements on metrics are met: bisection, then steps as far as a surface allows.

| symbol | meaning | shape |
| --- | --- | --- |
| x | the sparsest point known that meets the requirements | (G,) |
| s | sparsity | scalar |
| v | violation of the requirement that is furthest from being met; at most 0 is met | scalar |
| q | the response surface of v around x, of every point that is known: `response` | |
| u | the sparsity that the next unit of the cheapest group is worth at x | scalar |
| t | stride: how much more than x the next points remove, at most tau | scalar |
| d | the step to the lowest point of q that removes t more, no coefficient moving by more than rho | (G,) |
| z | random directions along the surface of equal sparsity | (G,) |

First s is bisected along two ways from the dense network: as near to it as may be, and all groups in proportion. Then
t is the largest stride at which q still promises a point that meets the requirements; x + d and others around it, at
x + d + h z, are asked for together, all sparser than x. The one with most to spare is the next x; where none meets the
requirements, tau, h and rho shrink. At the smallest of them x with one more unit removed, of each group in turn, is
asked for: if no such point meets the requirements, a round has ended. The next begins with wide probes again; the
search ends with a round that has found nothing.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from optuna_softprune._errors import InfeasibleTargetError
from optuna_softprune.numerics._probes import levels_of, smallest_step
from optuna_softprune.numerics._response import Surface, lowest, response
from optuna_softprune.numerics._search import Batch, Evaluation, Report, Role, Search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]

# Bisections along the two ways, and half the band of their points, as a share of what is bisected.
BISECTIONS, BAND = 6, 1 / 16
# Points that are asked for at once, and draws for each of them before a surrounding counts as known.
POINTS, DRAWS = 4, 8
# tau at the beginning of a round, as a share of all that can be removed.
STRIDE = 1 / 8
# What tau, h and rho are multiplied by after a failure, and tau and rho after steps as long as they may be.
SHORTER, FINER, LONGER, WIDER = 0.5, 0.7, 2.0, 1.5
SHORTEST = 0.01
# Bisections of a stride.
HALVINGS = 12


class Sparsities(Protocol):
    """All points of a lattice, by their sparsity."""

    @property
    def everything(self) -> LatticeConstraint:
        """A constraint that every point meets; its residual is a sparsity less a constant."""
        ...

    def between(self, low: float, high: float) -> LatticeConstraint | None:
        """Return the constraint that sparsity be between two bounds, or None if no point is known to be."""
        ...


class _Known:
    """What is known of v, and the best point.

    Attributes:
        of: The points that there are.
        everything: The constraint that all of them meet.
        levels: The coefficients that each group can have.
        points: v of the points that are known, by their bytes.
        x: The best point (G,); the dense network at first.
        at_x: v there.
    """

    def __init__(self, of: Sparsities) -> None:
        self.of, self.everything = of, of.everything
        self.levels = levels_of(self.everything)
        self.points: dict[bytes, Evaluation] = {}
        self.x = np.zeros(len(self.levels))
        self.at_x = Evaluation(-math.inf)
        self._of_dense = self.everything.residual(self.x)
        self.most = self.sparsity(self.everything.highest)

    def sparsity(self, c: FloatArray) -> float:
        """Return s at a point (G,)."""
        return self.everything.residual(c) - self._of_dense

    def ahead(self) -> FloatArray:
        """Return for each group (G,) the coefficient with one unit more removed than at x; at its end, that of x."""
        places = zip(self.levels, self.x, strict=True)
        return np.array(
            [levels[min(int(np.searchsorted(levels, c, "right")), len(levels) - 1)] for levels, c in places]
        )

    def ask(self, points: Sequence[FloatArray], role: Role, iteration: int) -> Search[list[FloatArray]]:
        """Ask for points (G,) that are not known; return those of them that meet the requirements."""
        new = {each.tobytes(): each for each in points if each.tobytes() not in self.points}
        answers = (yield Batch(tuple(new.values()), role, iteration)) if new else []
        for key, each in zip(new, answers, strict=True):
            self.points[key] = Evaluation(math.nan if each.failed else max(each.violations, default=-1.0))
        return [point for key, point in new.items() if self.points[key].loss <= 0]

    def go_to(self, x: FloatArray) -> None:
        """Take a known point (G,) for the best."""
        self.x, self.at_x = x, self.points[x.tobytes()]

    def improve(self, points: Sequence[FloatArray], role: Role, iteration: int) -> Search[bool]:
        """Ask for points (G,); of those that are better, take the one with most to spare; return whether one is."""
        met = yield from self.ask(points, role, iteration)
        sparser = [point for point in met if self.sparsity(point) > self.sparsity(self.x)]
        if sparser:
            self.go_to(min(sparser, key=lambda point: self.points[point.tobytes()].loss))
        return bool(sparser)


def enlarge(of: Sparsities, initial: Sequence[FloatArray], *, step: float, rate: float, seed: int) -> Search[None]:
    """Search for the largest sparsity until nothing is found any more.

    Args:
        of: The points that there are.
        initial: Lattice points (G,) that may be known.
        step: How far probes are, the standard deviation h of each coefficient at the beginning of a round.
        rate: How far a coefficient may move in a step, rho at the beginning of a round.
        seed: Of the directions.
    """
    known = _Known(of)
    dense = known.x
    met = yield from known.ask([dense, *initial], "start", 0)
    known.go_to(max(met, key=known.sparsity, default=dense))
    yield from _bisect(known)
    for number in itertools.count():
        before = known.sparsity(known.x)
        iterations = yield from _round(known, step, rate, np.random.default_rng([seed, number]))
        yield Report(True, iterations, "No network with one unit more removed meets the requirements.")
        if known.sparsity(known.x) <= before:
            return


def _bisect(known: _Known) -> Search[None]:
    """Bisect sparsity along two ways from the dense network."""
    high = known.most
    for bisection in range(1, BISECTIONS + 1):
        low = known.sparsity(known.x)
        middle, width = (low + high) / 2, BAND * (high - low)
        inside = known.of.between(middle - width, middle + width)
        ways = [np.zeros(len(known.x)), middle / known.most * known.everything.highest]
        points = [] if inside is None else [found for way in ways for found in _projected(inside, way)]
        if not (yield from known.improve(points, "step", bisection)):
            high = middle


def _round(known: _Known, h: float, rho: float, random: np.random.Generator) -> Search[int]:
    """Go on from x until no point with one more unit removed is better; return how many iterations that took."""
    smallest = smallest_step(known.everything)
    tau = STRIDE * known.most
    for iteration in itertools.count(1):
        before, unit = known.x, _unit(known)
        tau = max(tau, unit)
        stride, d = _stride(known, unit, tau, rho)
        points = _around(known, d, stride, np.maximum(h, smallest), random)
        if (yield from known.improve(points, "probe", iteration)):
            tau *= LONGER if stride >= tau else 1
            rho = min(1.0, rho * (WIDER if np.abs(known.x - before).max() > rho / 2 else 1))
            continue
        if stride <= unit and (h <= smallest).all() and not (yield from _one_unit_more(known, iteration)):
            break
        tau, h, rho = SHORTER * min(tau, stride), FINER * h, max(SHORTER * rho, SHORTEST)
    return iteration


def _unit(known: _Known) -> float:
    """Return u; 0 where nothing is left to remove."""
    worth = known.everything.gradient(known.x) * (known.ahead() - known.x)
    return float(worth[worth > 0].min(initial=known.most)) if worth.any() else 0.0


def _surface(known: _Known) -> Surface:
    """Return q."""
    return response(known.everything, known.x, known.at_x, known.points).sum(np.array([True]))


def _stride(known: _Known, unit: float, tau: float, rho: float) -> tuple[float, FloatArray]:
    """Return the largest t in [u, tau] at which q promises a point that meets the requirements, and d (G,)."""
    x, q, a = known.x, _surface(known), known.everything.gradient(known.x)
    low, high = np.maximum(-rho, -x), np.minimum(rho, known.everything.highest - x)

    def step(t: float) -> FloatArray:
        return lowest(q, low, high, a, np.zeros((0, 1 + len(x))), t)

    def meets(t: float) -> bool:
        return known.at_x.loss + q.at(step(t)) <= 0

    least, most = unit, max(min(tau, known.most - known.sparsity(x)), unit)
    if meets(most):
        return most, step(most)
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        least, most = (middle, most) if meets(middle) else (least, middle)
    return least, step(least)


def _around(
    known: _Known, d: FloatArray, stride: float, h: FloatArray, random: np.random.Generator
) -> list[FloatArray]:
    """Return points (G,) sparser than x that are not known: near x + d, and others around."""
    x, highest = known.x, known.everything.highest
    s, a = known.sparsity(x), known.everything.gradient(x)
    inside = known.of.between(s + stride / 2, s + 3 * stride / 2)
    if inside is None:
        return []
    middle = np.clip(x + d, 0, highest)
    found: dict[bytes, FloatArray] = {}
    for draw in range(POINTS * DRAWS):
        z = random.standard_normal(len(x)) * h if draw else np.zeros(len(x))
        z -= a * (a @ z) / (a @ a)
        for point in _projected(inside, np.clip(middle + z, 0, highest)):
            if point.tobytes() not in known.points and known.sparsity(point) > s:
                found.setdefault(point.tobytes(), point)
        if len(found) == POINTS:
            break
    return list(found.values())


def _projected(inside: LatticeConstraint, c: FloatArray) -> list[FloatArray]:
    """Return the point (G,) that `c` is projected onto; nothing where none is found."""
    try:
        return [inside.project(c)]
    except InfeasibleTargetError:
        return []


def _one_unit_more(known: _Known, iteration: int) -> Search[bool]:
    """Ask for x with one unit more removed of each group, as q promises, until one is better; return whether one is."""
    x, ahead, q = known.x, known.ahead(), _surface(known)
    points = [np.where(chosen, ahead, x) for chosen in np.eye(len(x), dtype=bool) if (ahead > x)[chosen].any()]
    points.sort(key=lambda point: q.at(point - x))
    for first in range(0, len(points), POINTS):
        if (yield from known.improve(points[first : first + POINTS], "candidate", iteration)):
            return True
    return False
