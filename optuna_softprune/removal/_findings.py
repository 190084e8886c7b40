"""What verification finds for the groups of a network, until it is made part of the network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from optuna_softprune.graph import Bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from optuna_softprune.graph import Network, TracedPart
    from optuna_softprune.removal._widths import IntArray

    # Units of a group -> how many of them may be kept, ascending, all of them last.
    Levels = Callable[[int], IntArray]


class Findings:
    """Which groups are protected, must keep equally many units, or must keep more than one; groups by position.

    Attributes:
        sizes: Shape (groups,): their units.
        reasons: Group -> why it is protected.
        leader: Group -> the first of the groups that keep equally many units as it.
        traced: Path -> a submodule that runs its own graph.
    """

    def __init__(self, network: Network, levels: Levels) -> None:
        self._network = network
        self.sizes = np.array([group.size for group in network.groups], np.int64)
        self.reasons: dict[int, str] = {}
        self.leader = list(range(len(self.sizes)))
        self.traced: Mapping[str, TracedPart] = {}
        self._levels = [levels(size) for size in self.sizes.tolist()]
        self._least: dict[int, tuple[int, str]] = {}

    @property
    def free(self) -> list[int]:
        """The groups that are not protected."""
        return [group for group in range(len(self.sizes)) if group not in self.reasons]

    @property
    def leaders(self) -> list[int]:
        """One of each set of groups that keep equally many units, of those that are not protected."""
        return [group for group in self.free if self.leader[group] == group]

    def led(self, groups: Iterable[int]) -> list[int]:
        """Return the leaders of those of `groups` that are not protected, ascending."""
        return sorted({self.leader[group] for group in groups if group not in self.reasons})

    def members(self, leaders: Iterable[int]) -> list[int]:
        """Return all groups that follow `leaders`."""
        wanted = set(leaders)
        return [group for group in self.free if self.leader[group] in wanted]

    def levels(self, leader: int) -> IntArray:
        """Return how many units a group may keep, ascending."""
        found = self._levels[leader]
        least: IntArray = found[found >= self._least.get(leader, (1, ""))[0]]
        return least

    def widths(self, kept: dict[int, int]) -> IntArray:
        """Return units kept (groups,) for leader -> units kept; all others are whole."""
        widths = self.sizes.copy()
        for group in self.free:
            widths[group] = kept.get(self.leader[group], widths[group])
        return widths

    def fewest(self, leaders: Iterable[int]) -> dict[int, int]:
        """Return leader -> the fewest units that it may keep."""
        return {leader: int(self.levels(leader)[0]) for leader in leaders}

    def protect(self, leader: int, reason: str) -> None:
        """Protect a group, and those that keep equally many units."""
        self.reasons.update(dict.fromkeys(self.members([leader]), reason))

    def tie(self, leaders: Sequence[int]) -> None:
        """Let groups of one size keep equally many units."""
        members, first = self.members(leaders), min(leaders)
        bounds = [self._least.pop(leader) for leader in leaders if leader in self._least]
        for group in members:
            self.leader[group] = first
        if bounds:
            self._least[first] = max(bounds)

    def bound(self, leader: int, least: int, reason: str) -> None:
        """Let a group keep at least so many units; one that must keep all is protected."""
        if least >= self.sizes[leader]:
            self.protect(leader, reason)
        else:
            self._least[leader] = (least, reason)

    def applied(self) -> Network:
        """Return the network with all that was found."""
        names = [group.name for group in self._network.groups]
        sets = [[names[group] for group in self.members([leader])] for leader in self.leaders]
        bounds = {names[leader]: Bound(least, 1, why) for leader, (least, why) in self._least.items()}
        network = replace(self._network, traced=self.traced).bounded(bounds)
        return network.joined([each for each in sets if len(each) > 1]).without(
            {names[group]: reason for group, reason in self.reasons.items()}
        )
