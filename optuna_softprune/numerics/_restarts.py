"""Runs from one start after another, so that a larger budget keeps helping.

The first start is the best of the points that are there before and of the feasible point nearest to the dense network:
groups that hold few parameters are left nearly whole there. Every other start lies on a ray from the dense network,
with a direction drawn from (seed, restart).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.numerics._search import Batch, Evaluation, Report, Search

if TYPE_CHECKING:
    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]
Run = Callable[[FloatArray, Evaluation], Search[Report]]

# Runs in a row that ask for nothing new before the search ends.
BARREN = 20
# Points along a ray at which the constraint is looked at.
ALONG = 257


def with_restarts(constraint: LatticeConstraint, initial: Sequence[FloatArray], run: Run, seed: int) -> Search[None]:
    """Run from the best of the `initial` points (G,), then from new ones, until nothing new is asked for.

    Args:
        constraint: What must hold.
        initial: Feasible lattice points that may be known.
        run: One run, from a feasible point with its evaluation.
        seed: Of the other starts.
    """
    asked: set[bytes] = set()
    barren = 0
    for restart in itertools.count():
        before = len(asked)
        starts = [*initial, nearest_to_dense(constraint)] if restart == 0 else [ray(constraint, seed, restart)]
        answers = yield from _noted(_ask(starts), asked)
        x, at_x = min(zip(starts, answers, strict=True), key=lambda each: each[1].rank)
        if not at_x.failed:
            report = yield from _noted(run(x, at_x), asked)
            yield report
        barren = barren + 1 if len(asked) == before else 0
        if barren == BARREN:
            return


def nearest_to_dense(constraint: LatticeConstraint) -> FloatArray:
    """Return the feasible point (G,) that removes least, in the Euclidean distance of coefficients."""
    return constraint.project(np.zeros(len(constraint.names)))


def ray(constraint: LatticeConstraint, seed: int, restart: int) -> FloatArray:
    """Return the feasible point (G,) on a ray from the dense network; `seed` and `restart` draw its direction."""
    random = np.random.default_rng([seed, restart])
    scatter = np.exp(random.standard_normal(len(constraint.names)))
    direction = constraint.gradient(np.zeros(len(constraint.names))) * scatter
    reach = constraint.highest / np.maximum(direction, 1e-12 * direction.max())
    line = np.minimum(np.linspace(0, 1, ALONG)[:, None] ** 2 * reach.max() * direction, constraint.highest)
    return constraint.project(line[int(np.argmin(constraint.violation(line)))])


def _ask(points: Sequence[FloatArray]) -> Search[list[Evaluation]]:
    answers = yield Batch(tuple(points), "start", 0)
    return answers


def _noted(search: Search[Report] | Search[list[Evaluation]], asked: set[bytes]) -> Search:  # type: ignore[type-arg]
    """Carry a search on and note every point that it asks for."""
    answers: list[Evaluation] = []
    step = next(search)
    while True:
        asked |= {point.tobytes() for point in step.points} if isinstance(step, Batch) else set()
        answers = yield step
        try:
            step = search.send(answers)
        except StopIteration as end:
            return end.value
