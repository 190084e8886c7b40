"""Networks put together from random steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._random_regions import REGION_STEPS
from optuna_softprune.testing._random_sequence import SEQUENCE_STEPS
from optuna_softprune.testing._random_step import IN_CHANNELS, SIDE, Step, StepModule
from optuna_softprune.testing._random_widths import WIDTH_STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Convolution(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        groups = (1, 1, 2, channels, channels)[step.option % 5]
        groups = groups if channels % groups == 0 else 1
        each = channels if groups == channels and groups > 1 else groups
        self.out = each * max(1, 2 + step.width % 7 if each == 1 else 1 + step.width % 3)
        kernel = (1, 3)[step.width % 2]
        kind = (nn.Conv2d, nn.ConvTranspose2d)[step.other % 2]
        self.conv = kind(channels, self.out, kernel, padding=kernel // 2, groups=groups, bias=step.option % 2 == 0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        return made


class _Norm(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        pairs = 2 if channels % 2 == 0 else 1
        norms = (
            lambda: nn.BatchNorm2d(channels),
            lambda: nn.GroupNorm(pairs, channels),
            lambda: nn.GroupNorm(channels // pairs, channels),
            lambda: nn.GroupNorm(1, channels, affine=False),
            lambda: nn.InstanceNorm2d(channels, affine=True),
            lambda: nn.LayerNorm([channels, SIDE, SIDE]),
        )
        self.norm: nn.Module = norms[step.option % len(norms)]()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.norm(x)
        return made


class _Activation(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        kinds = (nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.PReLU(channels), nn.Hardswish(), nn.Dropout2d(), nn.Softplus())
        self.act: nn.Module = kinds[step.option % len(kinds)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.act(x)
        return made


class _Combine(StepModule):
    """Adds or multiplies; where widths differ through a 1 x 1 convolution."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.match: nn.Module = nn.Identity() if other == channels else nn.Conv2d(other, channels, 1)
        self.product = step.option % 2

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.match(y)
        return x * torch.tanh(y) if self.product else x + y


class _Concatenate(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels + other

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1)


class _Gate(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.down = nn.Linear(channels, 2 + step.width % 4)
        self.up = nn.Linear(2 + step.width % 4, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gate: Tensor = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).flatten(1)))))
        made: Tensor = x * gate.unsqueeze(-1).unsqueeze(-1)
        return made


class _Halves(StepModule):
    """Two halves of what a convolution makes: multiplied, swapped or stacked."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        half = 2 + step.width % 4
        self.option = step.option % 3
        self.out = 2 * half if self.option == 1 else half
        self.conv = nn.Conv2d(channels, 2 * half, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = torch.chunk(self.conv(x), 2, 1)
        if self.option == 0:
            return a * torch.sigmoid(b)
        return torch.cat([b, a], 1) if self.option == 1 else torch.stack([a, b.sin()], 2).mean(2)


class _Scale(StepModule):
    """Scales by a bare parameter and shifts by a buffer."""

    shift: Tensor

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))
        self.register_buffer("shift", torch.linspace(-1, 1, channels).view(1, -1, 1, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.gamma * x + self.shift


class _Shuffle(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.parts = 2 if channels % 2 == 0 else 1

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.parts, c // self.parts, h, w).transpose(1, 2).reshape(n, c, h, w)


class _Resample(StepModule):
    """Operations that mix positions and keep channels apart."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.option = step.option % 5

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.option == 0:
            return F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0)
        if self.option == 1:
            return F.interpolate(F.avg_pool2d(x, 2), size=(SIDE, SIDE), mode="bilinear")
        if self.option == 2:
            return x.roll((1, 2), (2, 3)).flip(3)
        if self.option == 3:
            return F.pad(x[:, :, 1:, :-1], (1, 0, 0, 1), mode="constant")
        return x - x.mean((2, 3), keepdim=True) + x.softmax(-1)


class _Code(StepModule):
    """Flatten, a linear code, and back to an image."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = 2 + step.width % 3
        code = 2 + step.option % 5
        self.code = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * SIDE * SIDE, code),
            nn.LayerNorm(code),
            nn.ReLU(),
            nn.Linear(code, self.out * SIDE * SIDE),
            nn.Unflatten(1, (self.out, SIDE, SIDE)),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.code(x)
        return made


class _ChannelsLast(StepModule):
    """A block of layer norm, linear, GELU, linear behind a permutation."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.norm = nn.LayerNorm(channels, elementwise_affine=step.option % 2 == 0)
        self.up = nn.Linear(channels, 2 + step.width % 6)
        self.down = nn.Linear(2 + step.width % 6, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return x + made.permute(0, 3, 1, 2)


class _Mixer(StepModule):
    """A layer that mixes positions, not channels."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.mix = nn.Linear(SIDE, 2 + step.width % 5)
        self.unmix = nn.Linear(2 + step.width % 5, SIDE)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.unmix(F.relu(self.mix(x)))
        return made


class _Twice(StepModule):
    """One convolution, applied twice."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.conv(F.relu(self.conv(x)))
        return made


class _SubPixel(StepModule):
    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = 1 + step.width % 4
        self.conv = nn.Conv2d(channels, 4 * self.out, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.avg_pool2d(F.pixel_shuffle(self.conv(x), 2), 2)


class _Positions(StepModule):
    """Reads channels by their position, or adds constant ones: they must stay where they are."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.option = step.option % 4
        self.out = {0: channels, 1: channels + 2, 2: max(channels - 1, 1), 3: channels}[self.option]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.option == 0:
            return x.softmax(1)
        if self.option == 1:
            return F.pad(x, (0, 0, 0, 0, 1, 1))
        if self.option == 2:
            return x[:, 1:] if x.shape[1] > 1 else x
        return x + x[:, -1:]


STEPS: dict[str, type[StepModule]] = {
    "convolution": _Convolution,
    "norm": _Norm,
    "activation": _Activation,
    "combine": _Combine,
    "concatenate": _Concatenate,
    "gate": _Gate,
    "halves": _Halves,
    "scale": _Scale,
    "shuffle": _Shuffle,
    "resample": _Resample,
    "code": _Code,
    "channels_last": _ChannelsLast,
    "mixer": _Mixer,
    "twice": _Twice,
    "sub_pixel": _SubPixel,
    "positions": _Positions,
    **REGION_STEPS,
    **SEQUENCE_STEPS,
    **WIDTH_STEPS,
}
WIDEST = 24


class RandomNetwork(nn.Module):
    """A network that runs `steps` on an image (N, 3, 4, 4) and ends in a linear head (N, 2).

    Args:
        steps: Each reads any of the values before it; one that would be wider than 24 channels is left out.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        widths = [2 + len(steps) % 7]
        self.stem = nn.Conv2d(IN_CHANNELS, widths[0], 3, padding=1)
        self.steps = nn.ModuleList()
        self.reads: list[tuple[int, int]] = []
        for step in steps:
            # Mostly the newest value, so that the network is deep.
            source = len(widths) - 1 - step.source % 2 if step.source % 3 else step.source % len(widths)
            other = step.other % len(widths)
            made = STEPS[step.kind](widths[source], widths[other], step)
            if made.out <= WIDEST:
                self.steps.append(made)
                self.reads.append((max(source, 0), other))
                widths.append(made.out)
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (N, 2) for an image (N, 3, 4, 4)."""
        values = [self.stem(x)]
        for step, (source, other) in zip(self.steps, self.reads, strict=True):
            values.append(step(values[source], values[other]))
        y: Tensor = self.head(values[-1].mean((2, 3)))
        return y
