"""How many units each group keeps where values are compared: a few draws that cannot be passed by luck.

What is normalised over one unit is a constant, and so is a softmax over one: the output then does not show what went
wrong before. Groups over which something is normalised therefore keep at least `AMPLE` units in some draws; of those
that are too small for that, each is cut while the others are whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from optuna_softprune.graph import Group, Kept, Network
    from optuna_softprune.removal._findings import Levels
    from optuna_softprune.removal._widths import IntArray

    # Group name -> units kept; other groups are whole.
    Counts = dict[str, int]

# Of one number a norm leaves nothing, of two which is larger, of three where the third stands between them.
AMPLE = 3


def all_levels(size: int) -> IntArray:
    """Return that a group may keep any number of its units but none."""
    return np.arange(1, size + 1)


def allowed(group: Group, levels: Levels) -> IntArray:
    """Return how many units a group may keep, ascending."""
    found = levels(group.size)
    whole = (found % group.multiple == 0) | (found == group.size)
    kept: IntArray = found[whole & (found >= group.least)]
    return kept


def draws(groups: Sequence[Group], levels: Levels, normalised: AbstractSet[str]) -> Iterator[Counts]:
    """Yield how many units `groups` keep, each draw once; over those that are `normalised` a statistic is taken."""
    some, few = apart(groups, levels, normalised), fewest(groups, levels)
    hiding = [name for name in some if name in normalised and some[name] < AMPLE]
    seen: list[Counts] = []
    for kept in (
        _whole(some, hiding),
        alike(groups, levels),
        few,
        _whole(few | {name: count for name, count in some.items() if name in normalised}, hiding),
        *(_whole(some, [other for other in hiding if other != name]) for name in hiding),
    ):
        if kept and kept not in seen:
            seen.append(kept)
            yield kept


def _whole(kept: Counts, names: Collection[str]) -> Counts:
    return {name: count for name, count in kept.items() if name not in names}


def apart(groups: Iterable[Group], levels: Levels = all_levels, normalised: Collection[str] = ()) -> Counts:
    """Return units kept by group name, about half of each; groups of one size keep different numbers where they can.

    Those that are `normalised` keep `AMPLE` units where they can.
    """
    random = np.random.default_rng(0)
    kept: Counts = {}
    taken: dict[int, set[int]] = {}
    for group in groups:
        every = allowed(group, levels)
        cut = every[:-1] if len(every) > 1 else every
        if group.name in normalised and cut[-1] >= AMPLE:
            cut = cut[cut >= AMPLE]
        middle = cut[(4 * cut > group.size) & (4 * cut < 3 * group.size)]
        used = taken.setdefault(group.size, set())
        fresh = ([count for count in each.tolist() if count not in used] for each in (middle, cut))
        kept[group.name] = int(random.choice(next(filter(None, fresh), middle if len(middle) else cut)))
        used.add(kept[group.name])
    return kept


def alike(groups: Sequence[Group], levels: Levels) -> Counts:
    """Return units kept by group name: all groups as wide as the narrowest can be, as far as they can."""
    common = max(1, min(group.size for group in groups) - 1)
    every = {group.name: allowed(group, levels) for group in groups}
    return {name: int(each[np.searchsorted(each, common).clip(max=len(each) - 1)]) for name, each in every.items()}


def fewest(groups: Iterable[Group], levels: Levels) -> Counts:
    """Return units kept by group name: as few as they can."""
    return {group.name: int(allowed(group, levels)[0]) for group in groups}


def random_units(network: Network, kept: Mapping[str, int]) -> Kept:
    """Return which units stay (units,) if so many random ones of some groups do; the other groups are whole."""
    random = np.random.default_rng(0)
    stays = np.ones(network.units, bool)
    for group in network.groups:
        order = group.first_unit + random.permutation(group.size)
        stays[order[kept.get(group.name, group.size) :]] = False
    return stays


def random_part(network: Network) -> Kept:
    """Return which units stay (units,) if a random part of each group does, about half."""
    return random_units(network, apart(network.groups))
