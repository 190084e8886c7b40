"""Torch-Pruning's networks of a wanted size, and those of the same units refitted."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch_pruning
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna_softprune import PruningSpace
    from studies.classifiers import Part

BISECTIONS = 10
# Name -> its importance, and whether units of all layers are ranked together.
WAYS: dict[str, tuple[Callable[[], torch_pruning.importance.Importance], bool]] = {
    "Torch-Pruning, L2, global": (lambda: torch_pruning.importance.MagnitudeImportance(p=2), True),
    "Torch-Pruning, Taylor, uniform": (torch_pruning.importance.TaylorImportance, False),
    "Torch-Pruning, Taylor, global": (torch_pruning.importance.TaylorImportance, True),
}


def by_torch_pruning(
    model: nn.Module, part: Part, size: Callable[[nn.Module], int], target: float, way: str
) -> nn.Module:
    """Return its network whose size is nearest to the target, by bisection over its ratio of channels.

    Args:
        model: The dense network.
        part: Labelled images whose loss gives the gradients.
        size: What is counted of a network.
        target: The share of it to remove.
        way: One of `WAYS`.
    """
    importance, everywhere = WAYS[way]
    dense, found = size(model), list[tuple[float, int, nn.Module]]()
    gradients = torch.autograd.grad(
        nn.functional.cross_entropy(model(part.images), part.classes), list(model.parameters())
    )
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        small = copy.deepcopy(model)
        for parameter, gradient in zip(small.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        last = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
        torch_pruning.pruner.BasePruner(
            small, (part.images[:2],), importance(), pruning_ratio=ratio, global_pruning=everywhere,
            ignored_layers=[last],
        ).step()  # fmt: skip
        small.zero_grad()
        sparsity = 1 - size(small) / dense
        found.append((abs(sparsity - target), len(found), small.eval()))
        low, high = (ratio, high) if sparsity < target else (low, ratio)
    return min(found)[2]


def with_units_of(small: nn.Module, model: nn.Module, space: PruningSpace) -> nn.Module:
    """Return the network of `space` that keeps the units of another.

    Units are known by a parameter with one number for each, which no tool changes: the weight of a batch norm.
    """
    ours, theirs = dict(model.named_parameters()), dict(small.named_parameters())
    order, c = [], {}
    for group in space.groups:
        name = next(each.tensor for each in group.slices if each.tensor in ours and ours[each.tensor].ndim == 1)
        kept = torch.isin(ours[name], theirs[name]).numpy()
        order.append(np.argsort(kept, kind="stable"))
        c[group.name] = 1 - kept.sum() / group.size
    return space.with_order(order).prune(c)
