"""Steps that run in a region of the forward pass under a context of torch."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._random_step import Step, StepModule


class _Region(StepModule):
    """Two convolutions under autocast (off, on, or off inside of on), or with gradients off or on."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = 1 + step.width % 6
        self.option = step.option % 5
        hidden = 2 + step.other % 5
        self.read, self.make = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, self.out, 1)

    def context(self) -> contextlib.AbstractContextManager[object]:
        if self.option > 2:
            return torch.no_grad() if self.option == 3 else torch.enable_grad()
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.option > 0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with self.context():
            made = F.relu(self.read(x))
            with torch.autocast("cpu", enabled=False) if self.option == 2 else contextlib.nullcontext():
                made = self.make(made.to(x.dtype))
        found: Tensor = made.to(x.dtype)
        return found


REGION_STEPS: dict[str, type[StepModule]] = {"region": _Region}
