"""Torch-Pruning on CREPE: channels by the norms of their weights."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import torch
import torch_pruning

from studies.peers.sizes import bisected, parameters, runs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from studies.pitch.network import Crepe

METHODS = {"Torch-Pruning, L2, uniform": False, "Torch-Pruning, L2, global": True}


def by_torch_pruning(model: Crepe, frames: Tensor, target: float, *, everywhere: bool) -> nn.Module:
    """Return the network of a ratio that gives the target's number of parameters."""

    def pruned_at(ratio: float) -> nn.Module:
        small = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                small,
                (frames[:2],),
                torch_pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=ratio,
                global_pruning=everywhere,
                ignored_layers=[small.classifier],
            ).step()
        return small.eval()

    def works(small: nn.Module) -> bool:
        with torch.no_grad():
            return runs(small, frames[:2])

    return bisected(pruned_at, works, parameters(model), target)
