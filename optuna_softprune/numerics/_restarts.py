"""Runs from one start after another, so that a larger budget keeps helping.

The first start is the best of the feasible points that are there before, of the one nearest to the dense network, where
groups that hold few parameters are left nearly whole, and, if every group was measured alone, of the additive model's.
After it two kinds of starts take turns: beside the best
point of all runs, and far away, on a ray from the dense network. What is random of them is drawn from (seed, restart).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.numerics._additive import curves_alone, least_sum
from optuna_softprune.numerics._search import Batch, Evaluation, Report, Result, Search

if TYPE_CHECKING:
    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]
# A start, what is known of it, and what is known of all points by then, by their bytes.
Run = Callable[[FloatArray, Evaluation, Mapping[bytes, Evaluation]], Search[Report]]

# How far beside the best point a run begins: the standard deviation of each coefficient.
BESIDE = 0.1
# Runs in a row that ask for nothing new before the search ends.
BARREN = 20
# Points along a ray at which the constraint is looked at.
ALONG = 257


def with_restarts(constraint: LatticeConstraint, initial: Sequence[FloatArray], run: Run, seed: int) -> Search[None]:
    """Run from the best of the `initial` points (G,), then from others, until nothing new is asked for.

    Args:
        constraint: What must hold.
        initial: Lattice points that may be known, feasible or not.
        run: One run, from a feasible point with its evaluation.
        seed: Of the other starts.
    """
    seen = _Seen(constraint)
    barren = 0
    for restart in itertools.count():
        before = len(seen.known)
        if restart == 0:
            starts = yield from seen.by(_first(constraint, initial))
        elif restart % 2 and seen.best is not None:
            starts = [beside(constraint, seen.best, BESIDE, np.random.default_rng([seed, restart]))]
        else:
            starts = [ray(constraint, seed, restart)]
        answers = yield from seen.by(_ask(starts))
        x, at_x = min(zip(starts, answers, strict=True), key=lambda each: each[1].rank)
        if not at_x.failed:
            report = yield from seen.by(run(x, at_x, seen.known))
            yield report
        barren = barren + 1 if len(seen.known) == before else 0
        if barren == BARREN:
            return


def nearest_to_dense(constraint: LatticeConstraint) -> FloatArray:
    """Return the feasible point (G,) that removes least, in the Euclidean distance of coefficients."""
    return constraint.project(np.zeros(len(constraint.names)))


def beside(constraint: LatticeConstraint, c: FloatArray, spread: float, random: np.random.Generator) -> FloatArray:
    """Return a random feasible point (G,) beside `c`; `spread` is the standard deviation of each coefficient."""
    return constraint.project(np.clip(c + spread * random.standard_normal(len(c)), 0, constraint.highest))


def ray(constraint: LatticeConstraint, seed: int, restart: int) -> FloatArray:
    """Return the feasible point (G,) on a ray from the dense network; `seed` and `restart` draw its direction."""
    random = np.random.default_rng([seed, restart])
    scatter = np.exp(random.standard_normal(len(constraint.names)))
    direction = constraint.gradient(np.zeros(len(constraint.names))) * scatter
    reach = constraint.highest / np.maximum(direction, 1e-12 * direction.max())
    line = np.minimum(np.linspace(0, 1, ALONG)[:, None] ** 2 * reach.max() * direction, constraint.highest)
    return constraint.project(line[int(np.argmin(constraint.violation(line)))])


def _first(constraint: LatticeConstraint, initial: Sequence[FloatArray]) -> Search[list[FloatArray]]:
    """Return the first starts: what is feasible of `initial`, the nearest to the dense one, the additive model's."""
    answers = yield from _ask(initial)
    starts = [point for point in initial if constraint.violation(point) <= 0] + [nearest_to_dense(constraint)]
    curves = curves_alone(constraint, initial, [each.loss for each in answers])
    return [*starts, least_sum(constraint, curves)] if all(len(curve.losses) > 1 for curve in curves) else starts


def _ask(points: Sequence[FloatArray]) -> Search[list[Evaluation]]:
    answers = (yield Batch(tuple(points), "start", 0)) if points else []
    return answers


class _Seen:
    """What all runs asked for.

    Attributes:
        known: What was told of each point, by its bytes.
        best: The best feasible one, or None.
    """

    def __init__(self, constraint: LatticeConstraint) -> None:
        self._constraint = constraint
        self.known: dict[bytes, Evaluation] = {}
        self.best: FloatArray | None = None
        self._rank = (math.inf, math.inf)

    def by(self, search: Search[Result]) -> Search[Result]:
        """Carry a search on and note every point that it asks for."""
        answers: Sequence[Evaluation] | None = None  # begins it
        while True:
            try:
                step = search.send(answers)  # type: ignore[arg-type]
            except StopIteration as end:  # at once, where there is nothing to ask for
                return end.value  # type: ignore[no-any-return]
            answers = yield step
            if isinstance(step, Batch):
                for point, found in zip(step.points, answers, strict=True):
                    self._note(point, found)

    def _note(self, point: FloatArray, found: Evaluation) -> None:
        self.known[point.tobytes()] = found
        if found.rank < self._rank and self._constraint.violation(point) <= 0:
            self.best, self._rank = point, found.rank
