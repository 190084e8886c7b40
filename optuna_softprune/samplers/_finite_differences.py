"""Descent with finite differences along the surface of equal sparsity, every probe a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from optuna_softprune.numerics import (
    Evaluation,
    FiniteDifferences,
    Report,
    Scheme,
    Search,
    descend,
    descend_simultaneously,
)
from optuna_softprune.samplers._arguments import check_choice, check_fraction
from optuna_softprune.samplers._restarted import RestartedSampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from optuna_softprune.coefficients import LatticeConstraint


class FiniteDifferenceSampler(RestartedSampler):
    """Follows the metric's gradient, estimated from trials, along the networks of the wanted size.

    A probe removes more of one group and less of the others, so that it is a candidate itself; one probe for each group
    gives the gradient, quasi-Newton steps follow it (up or down as the study's direction says), and where nothing is
    better any more the probes come closer, down to single units. Of many groups (`scheme="simultaneous"`) probes change
    all at once: a step costs eight trials however many groups there are, and each trial that the study has, of this
    sampler or not, tells the next steps how the metric falls and bends. Then it begins again elsewhere, so that a
    larger budget keeps helping. Where the study has a sweep (`additive_sweep`), the additive model's answer is one of
    the first starts. What comes next is a function of the settings and the study's trials alone: a search can be
    killed, resumed, begun by other samplers (the best of the trials before it is its first start) and shared by
    workers, which evaluate the probes of one gradient side by side.

    Args:
        constraint: What every candidate must meet; the same object that the objective has.
        seed: Of the starts after the first.
        scheme: "one-sided" probes cost one trial a group, "central" ones two; the latter are for noisy metrics.
            "simultaneous" ones are for a dozen groups and more.
        step: Distance of the first probes, a fraction of each group, in (0, 1].
        rate: Length of the first step, in (0, 1]: in the Euclidean distance of coefficients, or, with simultaneous
            probes, of each of them.

    Raises:
        TypeError: If `constraint` is none.
        ValueError: If a setting is out of its range.
    """

    def __init__(
        self,
        constraint: LatticeConstraint,
        *,
        seed: int = 0,
        scheme: Scheme | Literal["simultaneous"] = "one-sided",
        step: float = 0.1,
        rate: float = 0.2,
    ) -> None:
        check_choice("scheme", scheme, ("one-sided", "central", "simultaneous"))
        check_fraction("step", step, "the distance of the first probes, a fraction of each group")
        check_fraction("rate", rate, "the length of the first step, in the distance of coefficients")
        super().__init__(constraint, seed, scheme=scheme, step=step, rate=rate)
        self._scheme, self._step, self._rate = scheme, step, rate

    @property
    def _kind(self) -> str:
        return "finite_differences"

    def _run(self, x: NDArray[np.float64], at_x: Evaluation, known: Mapping[bytes, Evaluation]) -> Search[Report]:
        if self._scheme == "simultaneous":
            return descend_simultaneously(
                self.constraint, x, at_x, known, step=self._step, rate=self._rate, seed=self._seed
            )
        return descend(
            self.constraint, x, at_x, FiniteDifferences(scheme=self._scheme, step=self._step, rate=self._rate)
        )
