"""The importance that belongs to a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from optuna_softprune.calibration import PATIENCE_S, RIDGE, Calibration, expect_calibration, expect_ridge
from optuna_softprune.graph import tensors
from optuna_softprune.importance._data import energy_of, readers
from optuna_softprune.importance._elimination import Reader, elimination
from optuna_softprune.importance._weights import by_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from optuna_softprune.calibration import Moments
    from optuna_softprune.graph import Group, Slices
    from optuna_softprune.importance._protocol import Scores


@dataclass(frozen=True, slots=True)
class ReconstructionError:
    """What is left of the next layers' error, after refitting, when a unit goes with all that go before it.

    Backward elimination: again and again the unit goes whose removal costs the layers that read the group least, all
    their other weights refitted by least squares (structured Optimal Brain Surgeon). The score of a unit is the error
    of these layers' outputs, as a part of their energy, once it is gone too: 0 for what is never missed, about 1 for
    the last. So units of different groups compare. Take it with `reconstruction=LeastSquares(calibration)`; without it
    other importances are better.

    Args:
        calibration: The data, the same as the reconstruction's.
        ridge: As in `LeastSquares`.
    """

    calibration: Calibration = field(repr=False)
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        expect_calibration(self.calibration)
        expect_ridge(self.ridge)

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return the error at which each unit goes; the unit that goes next always has a higher one."""
        moments = self.calibration.moments(model, groups)
        weights = dict(tensors(model))
        read = list(zip(groups, readers(groups, moments), strict=True))
        return [
            self._of_group(group, [(each, moments[each.tensor], weights[each.tensor].detach()) for each in slices])
            for group, slices in tqdm(read, desc="ranking units", delay=PATIENCE_S, leave=False)
        ]

    def _of_group(self, group: Group, read: Sequence[tuple[Slices, Moments, Tensor]]) -> Scores:
        found: list[Reader] = []
        constant, energy = np.zeros(group.size), 0.0
        for slices, moments, weight in read:
            matrices = moments.contraction.matrices(moments.contraction.rows(weight)).double().cpu()
            damped, inputs = moments.damped(self.ridge), _inputs(slices, moments)
            if damped is None or inputs is None:  # nothing can make up for a unit
                lost = energy_of(weight, moments)
                constant += by_unit(lost, slices)
                energy += lost.sum()
            else:
                found += [Reader(*each) for each in zip(damped, matrices, inputs, strict=True)]
                energy += ((matrices @ damped) * matrices).sum().item()
        order, paid = elimination(found, constant)
        scores = np.empty(group.size)
        total = 0.0
        for unit, cost in zip(order, np.cumsum(paid) / (energy or 1.0), strict=True):
            scores[unit] = total = max(cost, np.nextafter(total, np.inf))
        return scores


def _inputs(slices: Slices, moments: Moments) -> Sequence[NDArray[np.int64]] | None:
    """Return for each group of a convolution the inputs (units, m) of each unit; None if units lie in some of them."""
    groups, width = moments.energy.shape
    if moments.contraction.axis == 1:
        return [slices.indices] * groups
    each = slices.indices.shape[1] // groups
    by_group = np.sort(slices.indices, axis=1)
    if not each or (by_group // width != np.repeat(np.arange(groups), each)).any():
        return None
    return [by_group[:, i * each : (i + 1) * each] - i * width for i in range(groups)]
