"""SciPy's SLSQP on a lattice, with a numerical gradient of the metric and the analytic one of the constraint.

| symbol | meaning | shape |
| --- | --- | --- |
| x | where SciPy looks, a real point | (G,) |
| p | the lattice point nearest to x; the loss there is the loss at x | (G,) |
| u | probe step, whole units of each group, about h of it | (G,) |
| g_i | (f(p + u_i) - f(p - u_i)) / (2 u_i), on one side at a bound | (G,) |

SciPy can only be called, not stopped: whenever it looks at a point that is not known, its run is broken off, the point
is asked for, and the run begins again on what is known by then, the same way to the same place. Each iterate and the
end are asked for as candidates too: projected, since SciPy's points meet the constraint only between lattice points.

A run ends when two iterates in a row have the same lattice point: SciPy would see nothing new there but the steps of a
staircase.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.numerics._probes import Scheme, probe_step, smallest_step
from optuna_softprune.numerics._search import Batch, Evaluation, Report, Role, Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna_softprune.coefficients import LatticeConstraint

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SLSQP:
    """Settings of a run.

    Attributes:
        scheme: Probes on one side of a point, or on both.
        step: Probe step h, a fraction of a group.
        ftol: SciPy's: the change of the loss at which it stops.
        maxiter: SciPy's: the most iterations.
    """

    scheme: Scheme
    step: float
    ftol: float
    maxiter: int


Value = TypeVar("Value")


class _Missing(Exception):
    """The run needs points that are not known."""

    def __init__(self, points: list[FloatArray], role: Role) -> None:
        self.points, self.role = points, role


class _Settled(Exception):
    """Two iterates in a row have the same lattice point."""


def _kept(function: Callable[[FloatArray], Value]) -> Callable[[FloatArray], Value]:
    """Return `function` with its values kept by the exact point."""
    values: dict[bytes, Value] = {}

    def kept(x: FloatArray) -> Value:
        key = x.tobytes()
        if key not in values:
            values[key] = function(x)
        return values[key]

    return kept


def minimise(constraint: LatticeConstraint, x: FloatArray, at_x: Evaluation, settings: SLSQP) -> Search[Report]:
    """Run SciPy's SLSQP from a feasible point x (G,)."""
    run = _Run(constraint, x, at_x, settings)
    while True:
        try:
            return run.replay()
        except _Missing as missing:
            answers = yield Batch(tuple(missing.points), missing.role, run.iteration)
            run.learn(missing.points, answers)


class _Run:
    """One run of SciPy on what is known."""

    def __init__(self, constraint: LatticeConstraint, x: FloatArray, at_x: Evaluation, settings: SLSQP) -> None:
        self._constraint, self._start, self._settings = constraint, x, settings
        self._known = {x.tobytes(): at_x}
        self._units = probe_step(constraint, settings.step, smallest_step(constraint))
        self.iteration, self._last = 0, x
        # A run that begins again looks at the same points: what it computed there is kept.
        self._values = _kept(self._values_at)
        self._slopes = _kept(self._slopes_at)
        self._residual = _kept(lambda x: constraint.residual(self._inside(x)))
        self._gradient = _kept(lambda x: constraint.gradient(self._inside(x)))
        self._projected = _kept(lambda x: constraint.project(self._inside(x)))

    def learn(self, points: list[FloatArray], answers: list[Evaluation]) -> None:
        """Take in what was asked for."""
        self._known.update(zip((point.tobytes() for point in points), answers, strict=True))

    def replay(self) -> Report:
        """Run SciPy from the start.

        Raises:
            _Missing: If it looks at points that are not known.
        """
        self.iteration, self._last = 0, self._start
        try:
            return self._minimise()
        except _Settled:
            return Report(True, self.iteration, "Two iterates in a row have the same lattice point.")

    def _minimise(self) -> Report:
        from scipy.optimize import minimize

        with warnings.catch_warnings():
            # The SLSQP of SciPy 1.11 leaves the bounds by rounding errors, and says so; `_inside` clips its points.
            warnings.filterwarnings("ignore", "Values in x were outside bounds", RuntimeWarning)
            result = minimize(  # type: ignore[call-overload]  # arrays of any shape are not in its types
                lambda x: self._values(x)[0],
                self._start,
                jac=lambda x: self._slopes(x)[0],
                method="SLSQP",
                bounds=[(0.0, high) for high in self._constraint.highest.tolist()],
                constraints=[self._equality(), *self._requirements()],
                callback=self._iterate,
                options={"ftol": float(self._settings.ftol), "maxiter": int(self._settings.maxiter)},
            )
        self._look([self._projected(result.x)], "candidate")
        return Report(bool(result.success), int(result.nit), str(result.message))

    def _equality(self) -> Any:
        return {"type": "eq", "fun": self._residual, "jac": self._gradient}

    def _requirements(self) -> list[Any]:
        def entry(k: int) -> Any:
            return {
                "type": "ineq",
                "fun": lambda x: -self._values(x)[1 + k],
                "jac": lambda x: -self._slopes(x)[1 + k],
            }

        return [entry(k) for k in range(len(self._known[self._start.tobytes()].violations))]

    def _iterate(self, x: FloatArray) -> None:
        self.iteration += 1
        self._look([self._projected(x)], "candidate")
        before, self._last = self._last, self._constraint.snap(self._inside(x))
        if np.array_equal(before, self._last):
            raise _Settled

    def _inside(self, x: FloatArray) -> FloatArray:
        return np.clip(x, 0, self._constraint.highest)

    def _look(self, points: list[FloatArray], role: Role) -> FloatArray:
        """Return loss and violations (P, 1 + K) of points."""
        missing = {point.tobytes(): point for point in points if point.tobytes() not in self._known}
        if missing:
            raise _Missing(list(missing.values()), role)
        return self._filled([self._known[point.tobytes()] for point in points])

    def _filled(self, found: list[Evaluation]) -> FloatArray:
        """Where the metric failed, take the worst of what is known: a line search turns back there."""
        values = [[each.loss, *each.violations] for each in self._known.values() if not each.failed]
        worst = np.max(values, axis=0)
        return np.array([worst if each.failed else [each.loss, *each.violations] for each in found])

    def _values_at(self, x: FloatArray) -> FloatArray:
        """Return loss and violations (1 + K,) at x, which are those of its lattice point."""
        values: FloatArray = self._look([self._constraint.snap(self._inside(x))], "step")[0]
        return values

    def _slopes_at(self, x: FloatArray) -> FloatArray:
        """Return the gradients (1 + K, G) at x, which are those at its lattice point."""
        p = self._constraint.snap(self._inside(x))
        ahead, behind = self._probes(p)
        values = self._look([*ahead, *behind], "probe")
        differences = values[: len(p)] - values[len(p) :]
        moved = np.diagonal(ahead - behind)
        slopes = differences / np.where(moved, moved, 1)[:, None]
        return np.ascontiguousarray(slopes.T)  # SciPy 1.17 reads a gradient's memory without regard to its strides

    def _probes(self, p: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return points (G, G) ahead of p and behind it, of which some are p itself."""
        step, highest = np.diag(self._units), self._constraint.highest
        ahead = self._constraint.snap(np.minimum(p + step, highest))
        behind = self._constraint.snap(np.maximum(p - step, 0.0))
        if self._settings.scheme == "one-sided":
            blocked = np.diagonal(ahead) == p
            behind[~blocked] = p
        return ahead, behind
