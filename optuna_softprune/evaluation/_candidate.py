"""Which units of a network are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna_softprune.graph import Network
    from optuna_softprune.removal import Kept

Ranks = NDArray[np.int64]
# How many units of a group are kept; or, in a part of a sum, the ranks from which and up to which.
Count = int | tuple[int, int]


class Candidate(NamedTuple):
    """Units kept: of each group how many, and of all units which.

    Attributes:
        counts: Of each group.
        kept: Shape (units,): whether each unit is kept.
        ranks: Shape (units,): place of each unit in its group, 0 for the last to go.
    """

    counts: tuple[Count, ...]
    kept: Kept
    ranks: Ranks

    @classmethod
    def of(cls, network: Network, kept: Kept) -> Candidate:
        """Return the candidate that keeps some units, in one of the orders of removal that lead to it."""
        counts, ranks = [], np.empty(network.units, np.int64)
        for group in network.groups:
            own = slice(group.first_unit, group.first_unit + group.size)
            counts.append(int(kept[own].sum()))
            ranks[own][np.argsort(~kept[own], kind="stable")] = np.arange(group.size)
        return cls(tuple(counts), kept, ranks)

    def part(self, network: Network, position: int, start: int, stop: int) -> Candidate:
        """Return what keeps of the group at a position the units from one rank up to another."""
        group = network.groups[position]
        own = slice(group.first_unit, group.first_unit + group.size)
        kept = self.kept.copy()
        kept[own] = (start <= self.ranks[own]) & (self.ranks[own] < stop)
        return Candidate(replaced(self.counts, position, (start, stop) if start else stop), kept, self.ranks)


def replaced(counts: tuple[Count, ...], position: int, count: Count) -> tuple[Count, ...]:
    """Return counts with another one for the group at a position."""
    return (*counts[:position], count, *counts[position + 1 :])
