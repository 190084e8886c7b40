"""SciPy's SLSQP, every function value a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_softprune.numerics import SLSQP, Evaluation, Report, Scheme, Search, minimise
from optuna_softprune.samplers._arguments import check_choice, check_fraction, check_integer
from optuna_softprune.samplers._restarted import RestartedSampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from optuna_softprune.coefficients import LatticeConstraint


class SLSQPSampler(RestartedSampler):
    """Runs `scipy.optimize.minimize(method="SLSQP")` with the wanted size as an equality constraint.

    SciPy is given the metric of the nearest lattice point, a gradient of it from probes in whole units, and the exact
    gradient of the size. Requirements on metrics are its inequality constraints. Points between lattice points meet the
    constraint, their lattice points need not; so every iterate is evaluated projected too: trials with the role
    `candidate` are feasible. When a run ends, another begins elsewhere. How each ended (success, iterations, message)
    is kept in the study as `softprune:slsqp:<run>`. What comes next is a function of the settings and the study's
    trials alone: a search can be killed, resumed, begun by other samplers (the best of the trials before it is its
    first start) and shared by workers, which evaluate the probes of one gradient side by side.

    Args:
        constraint: What every candidate must meet; the same object that the objective has.
        seed: Of the starts after the first.
        scheme: "central" probes cost two trials a group, "one-sided" ones one.
        step: Distance of the probes, a fraction of each group, in (0, 1].
        ftol: SciPy's: change of the metric at which a run ends, above 0.
        maxiter: SciPy's: the most iterations of a run.

    Raises:
        TypeError: If `constraint` is none.
        ValueError: If a setting is out of its range.
    """

    def __init__(
        self,
        constraint: LatticeConstraint,
        *,
        seed: int = 0,
        scheme: Scheme = "central",
        step: float = 0.02,
        ftol: float = 1e-6,
        maxiter: int = 100,
    ) -> None:
        check_choice("scheme", scheme, ("one-sided", "central"))
        check_fraction("step", step, "the distance of the probes, a fraction of each group")
        check_integer("maxiter", maxiter, 1)
        if isinstance(ftol, bool) or not isinstance(ftol, (int, float)) or not ftol > 0:
            raise ValueError(f"Expected `ftol` to be above 0, but got {ftol!r}: it is a change of the metric.")
        super().__init__(constraint, seed, scheme=scheme, step=step, ftol=ftol, maxiter=maxiter)
        self._slsqp = SLSQP(scheme=scheme, step=step, ftol=ftol, maxiter=maxiter)

    @property
    def _kind(self) -> str:
        return "slsqp"

    def _run(self, x: NDArray[np.float64], at_x: Evaluation, known: Mapping[bytes, Evaluation]) -> Search[Report]:
        return minimise(self.constraint, x, at_x, self._slsqp)
