"""Steps whose code asks for widths: of another tensor, whether two are equal, whether one is a single unit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._random_step import SIDE, Step, StepModule


class _OtherWidth(StepModule):
    """A convolution whose output is given the width of another tensor."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = other
        self.conv = nn.Conv2d(channels, other, 1)
        self.option = step.option % 5

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        if self.option == 0:
            flat = made.reshape(made.shape[0], y.shape[1], -1)
            return flat.view(*flat.shape[:2], SIDE, SIDE)
        if self.option == 1:
            return made.view_as(y)
        if self.option == 2:
            return made + torch.zeros(made.shape[0], y.shape[1], 1, 1, dtype=x.dtype)
        if self.option == 3:
            return made[:, : y.shape[1]]
        return made.view(-1, y.size(1), SIDE, SIDE).sin()


class _Branch(StepModule):
    """A decision by widths in the forward pass."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.option = step.option % 5
        self.match: nn.Module = nn.Identity() if other == channels else nn.Conv2d(other, channels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.option == 0:
            if x.size() != y.size():
                y = self.match(y)
            return x + y
        if self.option == 1:
            return x.sin() if x.shape[1] > y.shape[1] else x.cos()
        if self.option == 2:
            return x.sin() if x.size(1) % 3 == 0 else x.cos()
        if self.option == 3:
            scaled: Tensor = x / x.shape[1] ** 0.5
            return scaled
        return x.sin() if x.numel() == y.numel() else x.cos()


class _Squeezed(StepModule):
    """A gate of one number a channel, with all axes of length 1 dropped."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.fc = nn.Linear(channels, channels)
        self.squeezes = channels > 1

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        gate: Tensor = torch.sigmoid(self.fc(pooled.squeeze() if self.squeezes else pooled.flatten(1)))
        return x * gate[:, :, None, None]


WIDTH_STEPS: dict[str, type[StepModule]] = {"other_width": _OtherWidth, "branch": _Branch, "squeezed": _Squeezed}
