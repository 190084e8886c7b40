"""Which units of a network are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from optuna_softprune.graph import Kept, Network


class Candidate(NamedTuple):
    """Units kept: of each group how many, and of all units which.

    Attributes:
        counts: Of each group.
        kept: Shape (units,): whether each unit is kept.
    """

    counts: tuple[int, ...]
    kept: Kept

    @classmethod
    def of(cls, network: Network, kept: Kept) -> Candidate:
        """Return the candidate that keeps some units."""
        return cls(tuple(int(kept[g.first_unit : g.first_unit + g.size].sum()) for g in network.groups), kept)
