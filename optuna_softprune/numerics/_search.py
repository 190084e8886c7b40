"""What a search is: straight-line code that asks for the losses of points and is told them.

A search is a generator. It yields a `Batch` of points, is sent one `Evaluation` for each, and goes on; a `Report` says
how a run from one start ended. It keeps nothing outside itself, so the same answers lead it to the same points.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Role = Literal["start", "probe", "step", "candidate"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of a point.

    Attributes:
        loss: What is minimised; NaN if the metric failed there.
        violations: Of the requirements on metrics; at most 0 is met.
    """

    loss: float
    violations: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no loss."""
        return math.isnan(self.loss)

    @property
    def rank(self) -> tuple[float, float]:
        """What is lower is better: requirements first, then the loss; a failed point comes last."""
        if self.failed:
            return math.inf, math.inf
        return sum(max(each, 0.0) for each in self.violations), self.loss


@dataclass(frozen=True, slots=True)
class Batch:
    """Points that are to be evaluated, in any order, before the search goes on.

    Attributes:
        points: Points (G,) of the lattice.
        role: What they are for.
        iteration: The iteration of the run that asks.
    """

    points: tuple[FloatArray, ...]
    role: Role
    iteration: int


@dataclass(frozen=True, slots=True)
class Report:
    """How the run from one start ended.

    Attributes:
        success: Whether it converged.
        iterations: How many it took.
        message: Why it ended.
    """

    success: bool
    iterations: int
    message: str


Result = TypeVar("Result")
Search: TypeAlias = Generator[Batch | Report, list[Evaluation], Result]
