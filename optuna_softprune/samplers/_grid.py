"""Exhaustive search: every feasible point of a grid once, with any number of workers, crashes and restarts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from optuna_softprune.coefficients import SparsityConstraint, feasible_points
from optuna_softprune.storage import PerStudy, all_trials, claim_point, claimed_point, is_left, metric_failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from optuna_softprune._space import PruningSpace
    from optuna_softprune.coefficients import Lattice

# A point whose metric failed is tried once more; then it counts as failed.
ATTEMPTS = 2
# How long a worker with nothing left to do waits for the last points of the others, in case one of them dies.
WAIT_S = 10.0
POLL_S = 0.2

# Without a constraint all points are kept in memory.
MOST_POINTS = 2_000_000

_logger = optuna.logging.get_logger("optuna_softprune")


class FeasibleGridSampler(BaseSampler):
    """Proposes every feasible point of a grid of coefficients once; then the study stops by itself.

    The levels of a group are spread evenly from 0 to its largest coefficient and snapped to whole units. `len(sampler)`
    is the number of points, known before the search: `study.optimize(objective, n_trials=remaining_trials(study,
    len(sampler)))`. What comes next is a function of the study's trials alone, so a search can be killed, resumed and
    shared by workers at any time; points that other samplers left behind count. A point that a pruner stopped is done;
    one whose metric failed is tried twice. Parameters of the user's own are drawn at random.

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
        self._distributions = space.distributions
        counts = _level_counts(levels, self._lattice.names)
        grid = [
            np.unique(self._lattice.removed(share[:, None] * self._lattice.highest)[:, g])
            for g, share in enumerate(np.linspace(0, 1, count) for count in counts)
        ]
        merged = [
            name for name, count, level in zip(self._lattice.names, counts, grid, strict=True) if len(level) < count
        ]
        if merged:
            _logger.warning(f"Groups with fewer units than levels have a level for each unit: {', '.join(merged)}.")
        product = int(np.prod([float(len(level)) for level in grid]))
        if constraint is None and product > MOST_POINTS:
            raise ValueError(
                f"Expected a grid of at most {MOST_POINTS:,} points, but got {product:,}: give a constraint, or take "
                "fewer levels."
            )
        width = np.inf if constraint is None else constraint.tolerance
        self._points = feasible_points(grid, _no_excess if constraint is None else constraint.excess, width)
        if not len(self._points):
            raise ValueError(
                f"Expected a point of the grid to meet {constraint}, but none does: take more levels or a wider "
                "tolerance."
            )
        self._index = {tuple(point): i for i, point in enumerate(self._points.tolist())}
        self._random = RandomSampler(seed=0)
        self._progress: PerStudy[_Progress] = PerStudy()
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def __len__(self) -> int:
        return len(self._points)

    def point(self, i: int) -> tuple[float, ...]:
        """Return the coefficients of the i-th point, in the order of the space's groups."""
        coefficients: list[float] = (self._points[i] / self._lattice.sizes).tolist()
        return tuple(coefficients)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_progress"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._progress, self._lock = PerStudy(), threading.Lock()

    def reseed_rng(self) -> None:
        """Reseed what draws parameters of the user's own."""
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the coefficients of all groups."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Claim the next free point.

        Raises:
            TrialPruned: If no point is left; the study is stopped.
        """
        if len(study.directions) > 1:
            raise ValueError("Expected a study with one objective, but got several: a grid has one best point.")
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._lock:
                progress = self._progress_of(study)
                point = progress.next_free(trial.number)
                if point is not None:
                    claim_point(study, trial, point)
                    break
                waiting = progress.remaining > 0
            if not waiting or time.monotonic() > deadline:
                self._stop(study)
                raise optuna.TrialPruned("All points of the grid are evaluated, or are being evaluated elsewhere.")
            time.sleep(POLL_S)
        return dict(zip(self._lattice.names, self.point(point), strict=True))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter of the user's own at random."""
        if param_name not in self._told:
            self._told.add(param_name)
            _logger.warning(f"Parameter {param_name!r} is no coefficient of the grid: it is drawn at random.")
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stop the study when this was the last point."""
        with self._lock:
            progress = self._progress_of(study)
            settles = state in (TrialState.COMPLETE, TrialState.PRUNED) and progress.is_open(trial)
            last = progress.remaining == int(settles)
        if last:
            self._stop(study)

    def _progress_of(self, study: optuna.Study) -> _Progress:
        progress = self._progress.get(study, lambda: _Progress(self._index, self._lattice))
        progress.read(study)
        return progress

    @staticmethod
    def _stop(study: optuna.Study) -> None:
        with contextlib.suppress(RuntimeError):  # a trial was asked for without `study.optimize`: nothing to stop
            study.stop()


class _Progress:
    """Which points of a study are done, claimed and free; read from its trials, each finished one once."""

    def __init__(self, index: Mapping[tuple[int, ...], int], lattice: Lattice) -> None:
        self._of, self._lattice = index, lattice
        self._done: set[int] = set()
        self._failures: dict[int, int] = {}
        self._cursor = 0
        self._seen: set[int] = set()
        self._first_open = 0
        self._claimed: set[int] = set()
        self._unclaimed: list[int] = []
        self._met: dict[int, float] = {}

    @property
    def remaining(self) -> int:
        """Number of points that are not done."""
        return len(self._of) - len(self._done)

    def is_open(self, trial: FrozenTrial) -> bool:
        """Whether a trial is at a point that is not done."""
        point = self._point(trial)
        return point is not None and point not in self._done

    def read(self, study: optuna.Study) -> None:
        """Take in the trials since the last call."""
        self._claimed, self._unclaimed = set(), []
        finished = True
        for trial in all_trials(study)[self._cursor :]:
            if trial.state.is_finished():
                if trial.number not in self._seen:
                    self._seen.add(trial.number)
                    self._take(trial)
            elif trial.state == TrialState.RUNNING and not is_left(trial):
                claimed = claimed_point(trial)
                if claimed is None and not trial.params:
                    # One that does not claim for long was killed before anything of it was written.
                    if time.monotonic() - self._met.setdefault(trial.number, time.monotonic()) < WAIT_S:
                        self._unclaimed.append(trial.number)
                else:
                    point = claimed if claimed is not None else self._point(trial)
                    self._claimed |= {point} if point is not None else set()
            finished = finished and trial.state.is_finished()
            self._cursor += finished

    def next_free(self, number: int) -> int | None:
        """Return the n-th free point for the n-th trial that has no point yet, or None."""
        rank = sum(other < number for other in self._unclaimed)
        while self._first_open in self._done:
            self._first_open += 1
        for point in range(self._first_open, len(self._of)):
            if point not in self._done and point not in self._claimed:
                if rank == 0:
                    return point
                rank -= 1
        return None

    def _take(self, trial: FrozenTrial) -> None:
        point = self._point(trial)
        if point is None:
            return
        if metric_failed(trial):
            self._failures[point] = self._failures.get(point, 0) + 1
        settled = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if settled or self._failures.get(point, 0) >= ATTEMPTS:
            self._done.add(point)

    def _point(self, trial: FrozenTrial) -> int | None:
        if not all(name in trial.params for name in self._lattice.names):
            return None
        c = np.array([trial.params[name] for name in self._lattice.names])
        return self._of.get(tuple(self._lattice.removed(c).tolist()))


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
