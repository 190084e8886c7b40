"""Regions of a forward pass under contexts of torch, an island of another dtype, and outputs that are nested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class Regions(nn.Module):
    """Autocast that is off inside of one that is on, gradients off, and a part that is computed again for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.exact = nn.Linear(4, 6), nn.Linear(6, 5)
        self.frozen, self.again = nn.Linear(5, 7), nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        with torch.autocast(x.device.type, torch.bfloat16), torch.autocast(x.device.type, enabled=False):
            y = torch.tanh(self.exact(x))
        with torch.no_grad():
            z = torch.sigmoid(self.frozen(y))
        again: Any = checkpoint(self.again, z, use_reentrant=False)
        out: Tensor = self.head(x + again)
        return out


class DoubleIsland(nn.Module):
    """Layers in double precision between layers in single."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(7, 2)
        self.island = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 7)).double()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.island(self.stem(x).double()).to(x.dtype)))
        return y


class OneNumber(nn.Module):
    """Parameters of one number that all channels share: a slope, an exponent, a gate, a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.slope = nn.Conv2d(3, 6, 3, padding=1), nn.PReLU()
        self.exponent, self.gate = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.rand(1, 1))
        self.wide, self.slopes = nn.Linear(6, 5), nn.PReLU(5)
        self.temperature, self.head = nn.Parameter(torch.ones(1)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.conv(x)).abs().clamp(min=1e-3).pow(self.exponent).mean((2, 3))
        y: Tensor = self.head(self.slopes(self.wide(x)) * self.gate) / self.temperature.exp()
        return y


@dataclass
class Found:
    """What a network has found; torch knows how it is made."""

    scores: Tensor
    features: dict[str, list[Tensor]]
    loss: Tensor | None = None


torch.export.register_dataclass(Found, serialized_type_name="optuna_softprune.testing.Found")


class NestedOutput(nn.Module):
    """Returns an object that holds a dict of lists, and nothing where a loss would be."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden = nn.Linear(4, 6), nn.Linear(6, 5)
        self.feature, self.head = nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Found:
        x = torch.relu(self.hidden(torch.relu(self.stem(x))))
        return Found(self.head(x), {"last": [self.feature(x), F.softmax(self.head(x), 1)], "none": []})


REGIONS: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "regions",
        Regions,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem exact:1 again.2 head:1"),
            "exact": (5, "exact frozen:1"),
            "frozen": (7, "frozen again.0:1"),
            "again.0": (8, "again.0 again.2:1"),
        },
    ),
    ZooNetwork(
        "double_island",
        DoubleIsland,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem island.0:1"),
            "island.0": (5, "island.0 island.2:1"),
            "island.2": (7, "island.2 head:1"),
        },
    ),
    ZooNetwork(
        "one_number",
        OneNumber,
        lambda: (normal(2, 3, 4, 4),),
        {
            "conv": (6, "conv wide:1"),
            "wide": (5, "wide slopes head:1"),
        },
    ),
    ZooNetwork(
        "nested_output",
        NestedOutput,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem hidden:1"),
            "hidden": (5, "hidden feature:1 head:1"),
        },
    ),
)
