"""The trials of a study by the lattice point that they evaluate: all that samplers remember."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from optuna.trial import TrialState

from optuna_softprune.storage._optuna import Claim, all_trials, claim_of, enqueued_params
from optuna_softprune.storage._recover import is_left, metric_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import optuna
    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

# Units removed of each group.
Point: TypeAlias = tuple[int, ...]

# A point whose metric failed is tried once more; then it counts as failed.
ATTEMPTS = 2
# A running trial that neither claims a point nor has parameters for so long, or when a later one is complete, was
# killed before it wrote anything. If it was only slow, its claim and another's meet, and one of them is given up.
UNWRITTEN_S = 10.0


class History:
    """What is known of points; each finished trial is read once.

    Args:
        names: The parameters that are coefficients.
        units: Coefficients (G,) -> point.

    Attributes:
        complete: Point -> its complete trial with the lowest number.
        claimed: Point -> the numbers of the living trials that evaluate it.
        first: Sampler with its settings -> the lowest number of a trial that it claimed a point for.
        changed: How often a complete trial took the place of a later one with another value.
        own: The number of the trial that this process claimed a point for last; who claims sets it.
        alone: Whether no other trial than that was running when the study was last read.
    """

    def __init__(self, names: Sequence[str], units: Callable[[NDArray[np.float64]], Point]) -> None:
        self._names, self._units = names, units
        self.complete: dict[Point, FrozenTrial] = {}
        self.claimed: dict[Point, list[int]] = {}
        self.first: dict[str, int] = {}
        self.changed = 0
        self.own: int | None = None
        self.alone = False
        self._pruned: set[Point] = set()
        self._failures: Counter[Point] = Counter()
        self._open: list[int] = []
        self._read = 0
        self._last_complete = -1
        self._unclaimed: list[int] = []
        self._met: dict[int, float] = {}

    def read(self, study: optuna.Study) -> list[FrozenTrial]:
        """Take in what happened since the last call; return the trials that have finished since."""
        trials = all_trials(study)
        still_open: list[int] = []
        finished: list[FrozenTrial] = []
        self.claimed, self._unclaimed = {}, []
        for number in [*self._open, *range(self._read, len(trials))]:
            trial = trials[number]
            claim = claim_of(trial)
            if claim:
                self.first[claim.by] = min(number, self.first.get(claim.by, number))
            if trial.state.is_finished():
                self._take(trial)
                finished.append(trial)
            else:
                still_open.append(number)
                self._note(trial, claim)
        self._open, self._read = still_open, len(trials)
        self.alone = all(number == self.own or trials[number].state == TrialState.WAITING for number in still_open)
        self._unclaimed = [number for number in self._unclaimed if number > self._last_complete]
        return finished

    def settled(self, point: Point) -> bool:
        """Whether a point is complete, was stopped by a pruner, or counts as failed: it is not tried again."""
        return point in self.complete or point in self._pruned or self._failures[point] >= ATTEMPTS

    def is_free(self, point: Point) -> bool:
        """Whether a point is neither settled nor claimed."""
        return point not in self.claimed and not self.settled(point)

    def known(self, point: Point) -> bool:
        """Whether a point has a complete or stopped trial, or is claimed."""
        return point in self.complete or point in self._pruned or point in self.claimed

    def place(self, number: int) -> int:
        """Return how many running trials before this one have no point yet.

        The n-th of them takes the n-th free point, so that workers that read at the same time take different ones.
        """
        return sum(other < number for other in self._unclaimed)

    def point_of(self, params: Mapping[str, Any]) -> Point | None:
        """Return the point that parameters snap to; None if they are not all coefficients."""
        if not all(name in params for name in self._names):
            return None
        return self._units(np.array([params[name] for name in self._names]))

    def planned(self, trial: FrozenTrial) -> Point | None:
        """Return the point of a trial, which may have been enqueued and not begun."""
        return self.point_of({**enqueued_params(trial), **trial.params})

    def _take(self, trial: FrozenTrial) -> None:
        point = self.point_of(trial.params)
        if point is None:
            return
        if trial.state == TrialState.COMPLETE:
            self._last_complete = max(self._last_complete, trial.number)
            held = self.complete.get(point)
            if held is None or trial.number < held.number:
                self.complete[point] = trial
                self.changed += held is not None and held.values != trial.values
        elif trial.state == TrialState.PRUNED:
            self._pruned.add(point)
        elif metric_failed(trial):
            self._failures[point] += 1

    def _note(self, trial: FrozenTrial, claim: Claim | None) -> None:
        if trial.state == TrialState.RUNNING and is_left(trial):
            return
        point = claim.point if claim else self.planned(trial)
        if point is not None:
            self.claimed.setdefault(point, []).append(trial.number)
        elif trial.state == TrialState.RUNNING and not trial.params and not self._was_killed(trial.number):
            self._unclaimed.append(trial.number)

    def _was_killed(self, number: int) -> bool:
        now = time.monotonic()
        return now - self._met.setdefault(number, now) >= UNWRITTEN_S
