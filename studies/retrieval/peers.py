"""Torch-Pruning on a BERT: whole heads, and units of the feed-forward networks."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import torch
import torch_pruning
from torch import nn

from studies.peers.sizes import bisected, parameters, runs

if TYPE_CHECKING:
    from torch import Tensor

METHODS = {"Torch-Pruning, L2, uniform": False, "Torch-Pruning, L2, global": True}


def by_torch_pruning(model: nn.Module, inputs: tuple[Tensor, Tensor], target: float, *, everywhere: bool) -> nn.Module:
    """Return the network of a ratio that gives the target's number of parameters.

    It is told the heads, and to leave whole what the residual stream is made of, as the documentation says.
    """

    def pruned_at(ratio: float) -> nn.Module:
        small = copy.deepcopy(model)
        parts = dict(small.named_modules())
        heads = {
            parts[f"{name}.{projection}"]: parts[name].num_attention_heads
            for name in parts
            if name.endswith("attention.self")
            for projection in ("query", "key", "value")
        }
        stream = [m for name, m in parts.items() if name.endswith("output.dense") or isinstance(m, nn.Embedding)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                small,
                {"tokens": inputs[0][:2], "mask": inputs[1][:2]},
                torch_pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=ratio,
                global_pruning=everywhere,
                ignored_layers=stream,
                num_heads=heads,
                prune_num_heads=True,
                prune_head_dims=False,
                head_pruning_ratio=ratio,
                root_module_types=[nn.Linear],
            ).step()
        return small.eval()

    def works(small: nn.Module) -> bool:
        with torch.no_grad():
            return runs(small, *(each[:2] for each in inputs))

    return bisected(pruned_at, works, parameters(model), target)
