"""The networks of another tool, as they are and refitted: what comes from the refit, and what from the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from studies.peers.run import TORCH_PRUNING, by_torch_pruning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from optuna_softprune import PruningSpace
    from studies.autoencoders import Images


def networks(
    space: PruningSpace, model: nn.Module, images: Images, target: float
) -> Iterator[tuple[str, nn.Module | None, nn.Module | None]]:
    """Yield each of Torch-Pruning's ways, its network, and the one of the same units refitted; None: there is none."""
    for method, (name, everywhere) in TORCH_PRUNING.items():
        try:
            small, _ = by_torch_pruning(model, images, target, name, everywhere=everywhere)
        except RuntimeError:
            yield method, None, None
            continue
        yield method, small, with_units_of(small, model, space)


def with_units_of(small: nn.Module, model: nn.Module, space: PruningSpace) -> nn.Module | None:
    """Return the network of `space` that keeps the units of another; None if it has none.

    Units are known by their biases, which no tool changes.
    """
    order, c = [], {}
    for group in space.groups:
        dense = torch.as_tensor(model.get_submodule(group.name).bias)
        left = torch.as_tensor(small.get_submodule(group.name).bias)
        if len(dense) != group.size:  # units of several indices, which Torch-Pruning takes apart
            return None
        kept = torch.isin(dense, left).numpy()
        if kept.sum() != len(left):
            return None
        order.append(np.argsort(kept, kind="stable"))
        c[group.name] = 1 - len(left) / group.size
    return space.with_order(order).prune(c)
