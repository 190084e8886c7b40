"""The networks of other tools, refitted: what comes from the refit, and what from the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import nn

    from optuna_softprune import PruningSpace


def with_units_of(small: nn.Module, model: nn.Module, space: PruningSpace) -> nn.Module:
    """Return the network of `space` that keeps the units of another.

    Units are known by their biases, which no tool changes.

    Raises:
        ValueError: If the other takes units apart.
    """
    order, c = [], {}
    for group in space.groups:
        dense = torch.as_tensor(model.get_submodule(group.name).bias)
        left = torch.as_tensor(small.get_submodule(group.name).bias)
        kept = torch.isin(dense, left).numpy()
        if len(dense) != group.size or kept.sum() != len(left):  # units of several indices
            raise ValueError(f"units of {group.name} are taken apart")
        order.append(np.argsort(kept, kind="stable"))
        c[group.name] = 1 - len(left) / group.size
    return space.with_order(order).prune(c)
