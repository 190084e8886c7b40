"""What samplers share that propose points of the lattice, each claimed by one worker."""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler

from optuna_softprune._log import LOGGER
from optuna_softprune.storage import Claim, History, PerStudy, Point, write_claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial, TrialState

FloatArray = NDArray[np.float64]

# How long a worker with nothing left to do waits for the last points of the others, in case one of them dies.
WAIT_S = 10.0
POLL_S = 0.2


class Progress(Protocol):
    """How far the search of one study is."""

    history: History

    def learn(self, finished: Sequence[FrozenTrial]) -> None:
        """Take in trials that the history has read as finished."""
        ...

    def planned_claim(self, study: optuna.Study, number: int) -> Claim | None:
        """Return the point that the search asks for next, for a trial; None if it has to know more first."""
        ...

    def spare_claim(self, number: int) -> Claim | None:
        """Return a point that may be of use, for a trial that the search has none for; None if there is none."""
        ...

    def is_over(self) -> bool:
        """Whether no point is open, here or in other workers."""
        ...


ProgressT = TypeVar("ProgressT", bound=Progress)


class ClaimingSampler(BaseSampler, Generic[ProgressT]):
    """Gives every trial a point that no other has; keeps nothing but what it can read again from the study."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], highest: FloatArray, seed: int) -> None:
        self._names, self._sizes, self._seed = tuple(names), np.array(sizes), seed
        self._distributions: dict[str, BaseDistribution] = {
            name: FloatDistribution(0.0, high) for name, high in zip(names, highest.tolist(), strict=True)
        }
        self._progress: PerStudy[ProgressT] = PerStudy()
        self._lock = threading.Lock()
        self._told: set[str] = set()

    @abstractmethod
    def _units(self, c: FloatArray) -> Point:
        """Return the lattice point of coefficients (G,)."""

    @abstractmethod
    def _begin(self, study: optuna.Study, history: History) -> ProgressT:
        """Return the progress of a study that is met first."""

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_progress"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._progress, self._lock = PerStudy(), threading.Lock()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the coefficients of all groups."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Claim a point and return its coefficients.

        Raises:
            TrialPruned: If no point is left; the study is stopped.
        """
        self._refuse_several_objectives(study)
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._lock:
                progress = self._met(study)
                claim = self._next_claim(study, trial.number, progress)
                if claim is not None and self._claimed(study, trial, claim, progress):
                    break
                over = progress.is_over()
            if claim is not None:
                continue
            if over or time.monotonic() > deadline:
                self._stop(study)
                raise optuna.TrialPruned("All points are evaluated, or are being evaluated elsewhere.")
            time.sleep(POLL_S)
        return dict(zip(self._names, (np.array(claim.point) / self._sizes).tolist(), strict=True))

    def _next_claim(self, study: optuna.Study, number: int, progress: ProgressT) -> Claim | None:
        """Return a point for a trial: a worker that was alone a moment ago reads the study only if it has to."""
        claim = progress.planned_claim(study, number) if progress.history.alone else None
        if claim is None:
            progress.learn(progress.history.read(study))
            claim = progress.planned_claim(study, number)
        return claim or progress.spare_claim(number)

    def _claimed(self, study: optuna.Study, trial: FrozenTrial, claim: Claim, progress: ProgressT) -> bool:
        """Claim a point, unless another worker did in the same moment.

        Of two claims the later sees the earlier when it looks again, and is given up; if both are, the order of the
        trials' numbers decides the next time.
        """
        history = progress.history
        write_claim(study, trial, claim)
        history.own = trial.number
        progress.learn(history.read(study))
        others = [number for number in history.claimed.get(claim.point, []) if number != trial.number]
        if others or history.settled(claim.point):
            write_claim(study, trial, None)
            return False
        return True

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter of the user's own at random, from the seed, its name and the trial's number."""
        self._refuse_several_objectives(study)
        if param_name not in self._told:
            self._told.add(param_name)
            LOGGER.warning(
                f"Parameter {param_name!r} is no coefficient that {type(self).__name__} searches: it is drawn at "
                "random."
            )
        seed = zlib.crc32(f"{self._seed}:{trial.number}:{param_name}".encode())
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing to do: the trial says it all."""

    def _met(self, study: optuna.Study) -> ProgressT:
        return self._progress.get(study, lambda: self._begin(study, History(self._names, self._units)))

    def _refuse_several_objectives(self, study: optuna.Study) -> None:
        if len(study.directions) > 1:
            raise ValueError(
                f"Expected a study with one objective, but got {len(study.directions)}: {type(self).__name__} looks "
                "for one best point. Samplers of Optuna with `ProjectedSampler` take several."
            )

    @staticmethod
    def _stop(study: optuna.Study) -> None:
        with contextlib.suppress(RuntimeError):  # a trial was asked for without `study.optimize`: nothing to stop
            study.stop()
