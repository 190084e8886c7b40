"""The networks of other tools, refitted: what comes from the refit, and what from the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from optuna_softprune import PruningSpace


def with_units_of(small: nn.Module, model: nn.Module, space: PruningSpace) -> nn.Module:
    """Return the network of `space` that keeps the units of another.

    Units are known by a parameter with one axis, a bias or the weight of a norm, which no tool changes or puts in
    another order; of those whose values are equal the first is taken. A unit of several values, as a head, is kept when
    all of them are.

    Raises:
        ValueError: If the other takes units apart.
    """
    ours, theirs = dict(model.named_parameters()), dict(small.named_parameters())
    order, c = [], {}
    for group in space.groups:
        slices = next(each for each in group.slices if each.tensor in ours and ours[each.tensor].ndim == 1)
        units = _kept(ours[slices.tensor].tolist(), theirs[slices.tensor].tolist())[slices.indices]
        kept = units.all(1)
        if (units.any(1) != kept).any():
            raise ValueError(f"units of {group.name} are taken apart")
        order.append(np.argsort(kept, kind="stable"))
        c[group.name] = 1 - kept.sum() / group.size
    return space.with_order(order).prune(c)


def _kept(dense: list[float], left: list[float]) -> NDArray[np.bool_]:
    """Return which values are left, in their order."""
    kept, place = np.zeros(len(dense), bool), 0
    for value in left:
        place = dense.index(value, place)
        kept[place] = True
        place += 1
    return kept
