"""Networks whose copies are more than their parameters: hooks, tensors in containers, views of one buffer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class Hooked(nn.Module):
    """A hook that is a method keeps features for later; another one, which is a function, changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.up, self.head = nn.Conv2d(11, 4, 1), nn.Conv2d(4, 2, 1)
        self.kept: dict[str, Tensor] = {}
        self.down.register_forward_hook(self.keep)
        self.up.register_forward_pre_hook(_doubled)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Keep what a layer returns."""
        self.kept["down"] = output

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.middle(torch.relu(self.down(x))))
        y: Tensor = self.head(torch.relu(self.up(torch.cat([x, self.kept["down"]], 1))))
        self.kept.clear()
        return y


def _doubled(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (2 * args[0],)


class Held(nn.Module):
    """Tensors, and layers that are registered elsewhere, in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(7, 2)
        self.first: list[Any] = [self.stem, torch.tensor(0.5)]
        self.rest: dict[str, Any] = {"wide": self.wide, "shift": (torch.full((1, 1), 0.1),), "bias": self.wide.bias}

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first[0](x) * self.first[1])
        y: Tensor = self.head(torch.tanh(self.rest["wide"](x) + self.rest["shift"][0]) * self.rest["bias"])
        return y


def _flat() -> nn.Module:
    """Return a network whose parameters are views of one tensor."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2))
    vector_to_parameters(parameters_to_vector(model.parameters()).detach().clone(), model.parameters())
    return model


COPIES: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "hooked",
        Hooked,
        lambda: (normal(2, 3, 4, 4),),
        {
            "down": (6, "down middle:1 up:1"),
            "middle": (5, "middle up:1"),
            "up": (4, "up head:1"),
        },
    ),
    ZooNetwork(
        "held",
        Held,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem wide:1"),
            "wide": (7, "wide head:1"),
        },
    ),
    ZooNetwork(
        "flat_buffer",
        _flat,
        lambda: (normal(2, 4),),
        {
            "0": (6, "0 2:1"),
            "2": (7, "2 4:1"),
        },
    ),
)
