"""Torch-Pruning's networks of a wanted size."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch_pruning
from torch import nn

from studies.peers.sizes import bisected, runs

if TYPE_CHECKING:
    from collections.abc import Callable

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
    gradients = torch.autograd.grad(
        nn.functional.cross_entropy(model(part.images), part.classes), list(model.parameters())
    )

    def pruned_at(ratio: float) -> nn.Module:
        small = copy.deepcopy(model)
        for parameter, gradient in zip(small.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        last = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
        torch_pruning.pruner.BasePruner(
            small, (part.images[:2],), importance(), pruning_ratio=ratio, global_pruning=everywhere,
            ignored_layers=[last],
        ).step()  # fmt: skip
        small.zero_grad()
        return small

    return bisected(
        pruned_at, lambda small: runs(small, part.images[:2]), size(model), target, size=size, bisections=BISECTIONS
    )
