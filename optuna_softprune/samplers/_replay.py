"""A search of `numerics` as a sampler: replayed on the study's trials, it says which point comes next."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection

from optuna_softprune.numerics import Batch, Evaluation, Report, Search, beside, ray
from optuna_softprune.samplers._arguments import check_constraint, check_integer, units_of, whole_units
from optuna_softprune.samplers._claiming import ClaimingSampler
from optuna_softprune.storage import Claim, History, Point, all_trials

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    from optuna.trial import FrozenTrial

    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]

# An extra point is drawn around the best one, in coefficients; wider with every draw that is known already.
NEAR = 0.05
DRAWS = 50


class ReplaySampler(ClaimingSampler["_Replay"]):
    """Carries a search on; where it stands is found from the study's trials alone."""

    # Whether the study stops when the search has ended; else points follow that may be good.
    _stops: ClassVar[bool] = False

    def __init__(self, constraint: LatticeConstraint, seed: int, **settings: Any) -> None:
        check_constraint(constraint)
        check_integer("seed", seed, 0)
        super().__init__(constraint.names, constraint.sizes, constraint.highest, seed)
        self._constraint = constraint
        self._settings = {"seed": seed, **settings}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
        return f"{type(self).__name__}({given})"

    @property
    @abstractmethod
    def _kind(self) -> str:
        """The name under which the study keeps how each run ended."""

    @abstractmethod
    def _search(self, initial: list[FloatArray]) -> Search[None]:
        """Search; the `initial` points (G,) are those of trials that were there before."""

    def _units(self, c: FloatArray) -> Point:
        return units_of(self._constraint, c)

    def _begin(self, study: optuna.Study, history: History) -> _Replay:
        return _Replay(self, study, history)


class _Replay:
    """A search as far as the trials of one study carry it."""

    def __init__(self, sampler: ReplaySampler, study: optuna.Study, history: History) -> None:
        self._sampler, self.history = sampler, history
        self._constraint, self._sizes = sampler._constraint, np.array(sampler._constraint.sizes)
        self._sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        self._by = repr(sampler)
        self._begun: tuple[int, int] | None = None
        self._search: Search[None]
        self._batch: Batch | None = None
        self._points: list[Point] = []
        self._best: tuple[tuple[float, float], FloatArray] | None = None
        self._reports = 0
        self._requirements: list[str] | None = None

    def learn(self, finished: Sequence[FrozenTrial]) -> None:
        """Remember the best feasible point of finished trials."""
        for trial in finished:
            self._compare(trial)

    def planned_claim(self, study: optuna.Study, number: int) -> Claim | None:
        """Return the n-th free point of the batch for the n-th trial that has no point yet, or None."""
        self._advance(study, number)
        free = list(filter(self.history.is_free, self._points))
        place = self.history.place(number)
        if self._batch is None or place >= len(free):
            return None
        return Claim(self._by, free[place], self._batch.role, self._batch.iteration)

    def spare_claim(self, number: int) -> Claim | None:
        """Return a point that may be good."""
        extra = None if self._batch is None and self._sampler._stops else self._extra(number)
        return None if extra is None else Claim(self._by, extra, "extra", 0)

    def is_over(self) -> bool:
        """Whether the search has ended and no trial runs."""
        return not self.history.claimed

    def _advance(self, study: optuna.Study, number: int) -> None:
        """Carry the search on as far as the trials know the answers."""
        first = min(number, self.history.first.get(self._by, number))
        if self._begun != (first, self.history.changed):
            self._begun = (first, self.history.changed)
            self._search = self._sampler._search(self._initial(study, first))
            self._reports = 0
            self._send(study, None)
        while self._batch is not None and all(map(self.history.settled, self._points)):
            self._send(study, [self._evaluation(point) for point in self._points])

    def _initial(self, study: optuna.Study, first: int) -> list[FloatArray]:
        """Return the points of the trials before the sampler's first, each once."""
        planned = (self.history.planned(trial) for trial in all_trials(study)[:first])
        return [np.array(point) / self._sizes for point in dict.fromkeys(planned) if point is not None]

    def _send(self, study: optuna.Study, answers: list[Evaluation] | None) -> None:
        """Carry the search on to the next batch; there are no `answers` at the beginning."""
        try:
            step = self._search.send(answers)  # type: ignore[arg-type]  # None begins a generator
            while isinstance(step, Report):
                self._keep(study, step)
                step = self._search.send([])
        except StopIteration:
            self._batch, self._points = None, []
        else:
            self._batch, self._points = step, [whole_units(c, self._sizes) for c in step.points]

    def _keep(self, study: optuna.Study, report: Report) -> None:
        """Write into the study how a run ended."""
        key = f"softprune:{self._sampler._kind}:{self._reports}"
        self._reports += 1
        found = {
            "sampler": self._by,
            "success": report.success,
            "iterations": report.iterations,
            "message": report.message,
        }
        if study.user_attrs.get(key) != found:
            study.set_user_attr(key, found)

    def _evaluation(self, point: Point) -> Evaluation:
        trial = self.history.complete.get(point)
        if trial is None or trial.value is None:
            return Evaluation(float("nan"))
        constraints = self._required(trial)
        if self._requirements is None:
            self._requirements = sorted(constraints)
        return Evaluation(self._sign * trial.value, tuple(constraints.get(name, 0.0) for name in self._requirements))

    @staticmethod
    def _required(trial: FrozenTrial) -> dict[str, float]:
        """Return a trial's constraints but sparsity, which holds for every point, and the dashboard's mirror of all."""
        return {name: value for name, value in trial.constraints.items() if name != "sparsity" and not name.isdigit()}

    def _extra(self, number: int) -> Point | None:
        """Return a new feasible point near the best one, for a worker that the search has nothing for."""
        random = np.random.default_rng([self._sampler._seed, number])
        best = None if self._best is None else self._best[1]
        for draw in range(1, DRAWS + 1):
            if best is None:
                c = ray(self._constraint, self._sampler._seed, number + draw)
            else:
                c = beside(self._constraint, best, NEAR * draw, random)
            point = whole_units(c, self._sizes)
            if point not in self._points and self.history.is_free(point):
                return point
        return None

    def _compare(self, trial: FrozenTrial) -> None:
        """Remember the best feasible point."""
        point = self.history.point_of(trial.params)
        if point is None or point not in self.history.complete:
            return
        c, rank = np.array(point) / self._sizes, self._evaluation(point).rank
        if (self._best is None or rank < self._best[0]) and self._constraint.violation(c) <= 0:
            self._best = rank, c
