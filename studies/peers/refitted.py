"""The networks of other tools, refitted: what comes from the refit, and what from the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from optuna_softprune import PruningSpace


def with_units_of(small: nn.Module, model: nn.Module, space: PruningSpace) -> nn.Module:
    """Return the network of `space` that keeps the units of another.

    Units are known by their biases, which no tool changes or puts in another order; of those whose biases are equal the
    first is taken. A unit of several biases in a row, as a head, is kept when all of them are.

    Raises:
        ValueError: If the other takes units apart.
    """
    order, c = [], {}
    for group in space.groups:
        dense = torch.as_tensor(model.get_submodule(group.name).bias)
        left = torch.as_tensor(small.get_submodule(group.name).bias)
        values = _kept(dense.tolist(), left.tolist())
        if len(dense) % group.size:
            raise ValueError(f"units of {group.name} are taken apart")
        units = values.reshape(group.size, -1)
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
