"""Networks whose code asks for widths: equal ones, which is wider, what is left of one unit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class OtherWidth(nn.Module):
    """A sequence reduction that reshapes by the width of another tensor: both must keep equally many units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 2, 2)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 5)
        self.skip, self.head = nn.Conv2d(6, 5, 2, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, _, _ = x.shape
        y = self.reduce(x).reshape(n, c, -1).transpose(1, 2)
        z: Tensor = self.head(self.out(self.norm(y)) + self.skip(x).flatten(2).transpose(1, 2))
        return z


class AskedShortcut(nn.Module):
    """A residual block that asks in its forward pass whether the shortcut needs a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.shortcut = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.conv(x))
        if x.size() != y.size():
            x = self.shortcut(x)
        z: Tensor = self.head(x + y)
        return z


class Squeezed(nn.Module):
    """Squeeze and excitation with `squeeze()`, which drops the channels too when there is but one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(3, 6, 1), nn.Linear(6, 4), nn.Linear(4, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).squeeze()))))
        y: Tensor = self.head(x * gate[:, :, None, None])
        return y


WIDTHS: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "other_width",
        OtherWidth,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (6, "stem reduce:1 reduce norm out:1 skip:1"),
            "out": (5, "out skip head:1"),
        },
    ),
    ZooNetwork(
        "asked_shortcut",
        AskedShortcut,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (4, "stem conv:1 shortcut:1"),
            "conv": (8, "conv shortcut head:1"),
        },
    ),
    ZooNetwork(
        "squeezed",
        Squeezed,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (6, "stem down:1 up head:1"),
            "down": (4, "down up:1"),
        },
    ),
)
