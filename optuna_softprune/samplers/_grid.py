"""Exhaustive search: every feasible point of a grid once, with any number of workers, crashes and restarts."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from optuna_softprune._log import LOGGER
from optuna_softprune.coefficients import SparsityConstraint, feasible_points
from optuna_softprune.samplers._claiming import POLL_S, ClaimingSampler
from optuna_softprune.storage import Claim, History, Point, claim_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from optuna_softprune._space import PruningSpace

# Without a constraint all points are kept in memory.
MOST_POINTS = 2_000_000
BY = "FeasibleGridSampler"

FloatArray = NDArray[np.float64]


class FeasibleGridSampler(ClaimingSampler["_Progress"]):
    """Proposes every feasible point of a grid of coefficients once; then the study stops by itself.

    The levels of a group are spread evenly from 0 to its largest coefficient and snapped to whole units. `len(sampler)`
    is the number of points, known before the search: `study.optimize(objective, n_trials=remaining_trials(study,
    len(sampler)))`. What comes next is a function of the study's trials alone, so a search can be killed, resumed and
    shared by workers at any time; points that other samplers left behind count. A point that a pruner stopped is done;
    one whose metric failed is tried twice. Parameters of the user's own are drawn at random.

    Threads of `n_jobs` end with the last point. A worker in a process of its own that asks while the last points are
    evaluated elsewhere waits ten seconds for them, and then leaves a PRUNED trial without parameters behind: Optuna
    has no other way to give a trial back.

    Args:
        space: The search space.
        constraint: Only points that meet it are proposed; all of them without.
        levels: Levels of every group, at least 2, or of each by name.

    Raises:
        ValueError: If `levels` is out of its range or names what is not there, or no point is feasible.
    """

    def __init__(
        self,
        space: PruningSpace,
        constraint: SparsityConstraint | None = None,
        *,
        levels: int | Mapping[str, int] = 11,
    ) -> None:
        self.constraint = constraint
        self._lattice = space.lattice
        self._jobs = _Jobs()
        super().__init__(self._lattice.names, self._lattice.sizes.tolist(), self._lattice.highest, seed=0)
        counts = _level_counts(levels, self._lattice.names)
        grid = [
            np.unique(self._lattice.removed(share[:, None] * self._lattice.highest)[:, g])
            for g, share in enumerate(np.linspace(0, 1, count) for count in counts)
        ]
        merged = [
            name for name, count, level in zip(self._lattice.names, counts, grid, strict=True) if len(level) < count
        ]
        if merged:
            LOGGER.warning(f"Groups with fewer units than levels have a level for each unit: {', '.join(merged)}.")
        product = int(np.prod([float(len(level)) for level in grid]))
        if constraint is None and product > MOST_POINTS:
            raise ValueError(
                f"Expected a grid of at most {MOST_POINTS:,} points, but got {product:,}: give a constraint, or take "
                "fewer levels."
            )
        width = np.inf if constraint is None else constraint.tolerance
        excess = _no_excess if constraint is None else constraint.excess
        self._points = feasible_points(grid, excess, width, MOST_POINTS)
        if len(self._points) > MOST_POINTS:
            raise ValueError(
                f"Expected a grid of at most {MOST_POINTS:,} feasible points, but of {product:,} points more are: take "
                "fewer levels, a narrower tolerance, or another sampler."
            )
        if not len(self._points):
            raise ValueError(
                f"Expected a point of the grid to meet {constraint}, but none does: take more levels or a wider "
                "tolerance."
            )

    def __len__(self) -> int:
        return len(self._points)

    def __repr__(self) -> str:
        return f"FeasibleGridSampler({len(self)} points, constraint={self.constraint!r})"

    def point(self, i: int) -> tuple[float, ...]:
        """Return the coefficients of the i-th point, in the order of the space's groups."""
        coefficients: list[float] = (self._points[i] / self._lattice.sizes).tolist()
        return tuple(coefficients)

    def _units(self, c: FloatArray) -> Point:
        return tuple(self._lattice.removed(c).tolist())

    def _begin(self, study: optuna.Study, history: History) -> _Progress:
        return _Progress(self._points.tolist(), history)

    def reseed_rng(self) -> None:
        """Wait, in a thread of `n_jobs`, while the others evaluate the last points: no trial is begun in vain.

        Optuna calls it before each trial of such a thread, and then looks whether the study was stopped.
        """
        self._jobs.note_thread()
        while (study := self._jobs.study()) is not None:
            with self._lock:
                progress = self._met(study)
                free = progress.has_free(besides=self._jobs.entering)
                if not free:
                    progress.learn(progress.history.read(study))
                    free = progress.has_free(besides=self._jobs.entering)
                over = progress.is_over()
                if free:
                    self._jobs.enter()
            if over:
                self._stop(study)
            if over or free or not self._jobs.running:
                return
            time.sleep(POLL_S)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Claim a point and return its coefficients; errors as in every sampler that claims points."""
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            self._jobs.entered()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Note what runs here."""
        self._jobs.begin(study, trial.number)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stop the study when this was the last point."""
        self._jobs.end(trial.number)
        with self._lock:
            progress = self._met(study)
            if claim_of(trial) is not None and progress.has_free():  # when this trial began: so it was not the last
                return
            progress.learn(progress.history.read(study))
            settles = state in (TrialState.COMPLETE, TrialState.PRUNED) and progress.is_open(trial)
            last = progress.remaining == int(settles)
        if last:
            self._stop(study)


class _Jobs:
    """Trials that threads of `n_jobs` evaluate here; those that somebody asked for by hand may never end.

    Attributes:
        running: Their numbers.
    """

    def __init__(self) -> None:
        self.running: set[int] = set()
        self._entering: set[int] = set()
        self._thread = threading.local()
        self._study: weakref.ref[optuna.Study] | None = None

    def __reduce__(self) -> tuple[type[_Jobs], tuple[()]]:
        return _Jobs, ()

    def note_thread(self) -> None:
        """Take the thread that calls for one of `n_jobs`."""
        self._thread.is_job = True

    def study(self) -> optuna.Study | None:
        """Return the study of the last trial that was begun."""
        return None if self._study is None else self._study()

    @property
    def entering(self) -> int:
        """Number of threads that were let through and have claimed no point yet."""
        return len(self._entering)

    def enter(self) -> None:
        """Let the thread that calls through."""
        self._entering.add(threading.get_ident())

    def entered(self) -> None:
        """Note that the thread that calls has its point, or gets none."""
        self._entering.discard(threading.get_ident())

    def begin(self, study: optuna.Study, number: int) -> None:
        """Note a trial, if it is of `n_jobs`."""
        self._study = weakref.ref(study)
        if getattr(self._thread, "is_job", False):
            self.running.add(number)

    def end(self, number: int) -> None:
        """Forget a trial."""
        self.running.discard(number)


class _Progress:
    """Which points of a study are done, claimed and free."""

    def __init__(self, points: Sequence[Sequence[int]], history: History) -> None:
        self._points = [tuple(point) for point in points]
        self._of = {point: i for i, point in enumerate(self._points)}
        self.history = history
        self._done: set[Point] = set()
        self._first_open = 0

    @property
    def remaining(self) -> int:
        """Number of points that are not done."""
        return len(self._points) - len(self._done)

    def is_open(self, trial: FrozenTrial) -> bool:
        """Whether a trial is at a point that is not done."""
        point = self.history.point_of(trial.params)
        return point in self._of and point not in self._done

    def learn(self, finished: Sequence[FrozenTrial]) -> None:
        """Take in trials that have finished."""
        points = {self.history.point_of(trial.params) for trial in finished}
        self._done |= {point for point in points if point in self._of and self.history.settled(point)}

    def planned_claim(self, study: optuna.Study, number: int) -> Claim | None:
        """Return the n-th free point for the n-th trial that has no point yet, or None."""
        point = next(itertools.islice(self._free(), self.history.place(number), None), None)
        return None if point is None else Claim(BY, point, "grid", 0)

    def spare_claim(self, number: int) -> Claim | None:
        """Return None: what is not planned is of no use."""
        return None

    def has_free(self, *, besides: int = 0) -> bool:
        """Whether a point is neither done nor claimed, as far as is known, besides so many others."""
        return next(itertools.islice(self._free(), besides, None), None) is not None

    def _free(self) -> Iterator[Point]:
        while self._first_open < len(self._points) and self._points[self._first_open] in self._done:
            self._first_open += 1
        later = (self._points[i] for i in range(self._first_open, len(self._points)))
        return filter(self.history.is_free, later)

    def is_over(self) -> bool:
        """Whether all points are done."""
        return self.remaining == 0


def _no_excess(removed: NDArray[Any]) -> NDArray[np.float64]:
    return np.zeros(removed.shape[:-1])


def _level_counts(levels: int | Mapping[str, int], names: Sequence[str]) -> list[int]:
    given = dict(levels) if isinstance(levels, Mapping) else dict.fromkeys(names, levels)
    if set(given) != set(names):
        raise ValueError(f"Expected `levels` for each of the groups {list(names)}, but got {list(given)}.")
    for name, count in given.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ValueError(f"Expected `levels` of {name!r} to be an integer of at least 2, but got {count!r}.")
    return [given[name] for name in names]
