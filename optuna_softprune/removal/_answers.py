"""What a forward pass is told when it asks for the values of tensors, for passes on tensors that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from optuna_softprune.graph import map_tensors
from optuna_softprune.removal._remove import remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from optuna_softprune.graph import Network

VALUES = frozenset(getattr(torch.Tensor, f"__{name}__") for name in ("bool", "int", "float", "index"))
VALUES |= {torch.Tensor.item, torch.Tensor.tolist}


class _Answers(TorchFunctionMode):
    """Keeps what a forward pass on real tensors is told when it asks for values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if function in VALUES:
            self.found.append(found)
        return found


def answers_of(model: nn.Module, network: Network, inputs: tuple[Any, Any]) -> list[Any]:
    """Return what the dense network is told of values, in execution order."""
    dense = remove(model, network, np.ones(network.units, bool), share=True)
    args, kwargs = map_tensors(inputs, torch.clone)
    answers = _Answers()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), answers:
        dense(*args, **kwargs)
    return answers.found
