"""Importances that need no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from optuna_softprune.graph import Group, Slices
    from optuna_softprune.importance._protocol import Scores


def by_index(tensor: Tensor, axis: int) -> Scores:
    """Return the sums (length,) of `tensor` over all axes but one, in float64."""
    others = [a for a in range(tensor.dim()) if a != axis]
    summed = tensor.sum(others, dtype=torch.float64) if others else tensor.double()
    sums: Scores = summed.cpu().numpy()
    return sums


def by_unit(sums: Scores, slices: Slices) -> Scores:
    """Return the sums (size,) over the indices that go with each unit."""
    total: Scores = sums[slices.indices].sum(axis=1)
    return total


@dataclass(frozen=True, slots=True)
class Magnitude:
    """The Lp norm of all weights that go with a unit: those that make it, scale it and read it.

    Needs no data and takes milliseconds. Take it when there is no calibration data, or as a first try; where there
    is data, `ActivationEnergy` and `Taylor` are usually better, since a norm does not know which units are active.

    Args:
        p: The order of the norm, at least 1 and finite. 2 is the norm of Li et al., "Pruning Filters for Efficient
            ConvNets" (2017), over the whole group instead of over one filter.
    """

    p: float = 2

    def __post_init__(self) -> None:
        if not 1 <= self.p < float("inf"):
            raise ValueError(f"Expected `p` to be in [1, inf), but got {self.p!r}.")

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return (sum |w|^p)^(1/p) over the parameters of each unit."""
        powers: dict[tuple[str, int], Scores] = {}
        parameters = dict(model.named_parameters())

        def total(slices: Slices) -> Scores:
            key = (slices.tensor, slices.axis)
            if key not in powers:
                weight = parameters[slices.tensor].detach()
                powers[key] = by_index(weight.double().abs() ** self.p, slices.axis)
            return by_unit(powers[key], slices)

        return [
            sum((total(s) for s in group.slices if s.tensor in parameters), np.zeros(group.size)) ** (1 / self.p)
            for group in groups
        ]


@dataclass(frozen=True, slots=True)
class Random:
    """Scores drawn from a uniform distribution: the control that every other importance must beat.

    Args:
        seed: Seed of the generator. The scores of a group depend on the seed, the name of the group and its size.
    """

    seed: int = 0

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return uniform scores in [0, 1)."""
        return [np.random.default_rng([self.seed, *group.name.encode()]).random(group.size) for group in groups]
