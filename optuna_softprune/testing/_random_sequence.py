"""Steps of random networks: sequences of pixels, statistics over channels, sizes that a module holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._random_step import Step, StepModule


def pixels(x: Tensor) -> Tensor:
    """Return an image (N, C, H, W) as a sequence (N, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def image(y: Tensor, x: Tensor) -> Tensor:
    """Return a sequence (N, H W, C) as an image of the size of `x`."""
    return y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])


class _Attention(StepModule):
    """Attention between pixels: fused, spelled out, with shared keys, over channels, or with a bias for each head."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.option = step.option % 5
        shared = 2 if self.option == 2 else 1
        self.num_heads, self.head_dim = shared * (1 + step.width % 3), 2 + step.other % 2
        self.groups = shared
        self.query = nn.Linear(channels, self.num_heads * self.head_dim)
        self.key, self.value = (nn.Linear(channels, self.num_heads // shared * self.head_dim) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(self.num_heads, 1, 1))
        self.project = nn.Linear(self.num_heads * self.head_dim, channels)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        tokens = pixels(x)
        q, k, v = (self.heads(each(tokens)) for each in (self.query, self.key, self.value))
        if self.option == 1:  # by a size that the module states
            q = self.query(tokens).view(*tokens.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
        if self.option == 2:
            k, v = (each.repeat_interleave(self.groups, 1) for each in (k, v))
        if self.option == 3:
            made = v @ (F.normalize(q, dim=2).mT @ F.normalize(k, dim=2)).softmax(-1)
        elif self.option == 4:
            made = (q @ k.mT / 2 + self.bias).softmax(-1) @ v
        else:
            made = F.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.project(made.transpose(1, 2).flatten(2))
        return x + image(found, x)


class _Statistic(StepModule):
    """A norm or a gate by a statistic over channels."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.out = channels
        self.option = step.option % 6
        self.norm = nn.RMSNorm(channels)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.local = nn.LocalResponseNorm(2 + step.width % 3, alpha=1.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.option == 0:
            made: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return made
        if self.option == 1:
            return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3) * self.scale
        if self.option == 2:
            energy: Tensor = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
            return x + self.scale * x * energy / (energy.mean(1, keepdim=True) + 1e-3)
        if self.option == 3:
            return x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True))
        if self.option == 4:
            normed: Tensor = self.local(x)
            return normed
        return F.normalize(x, dim=1) + x.softmax(1).cumsum(1)


class _Recurrence(StepModule):
    """A recurrent layer along the pixels."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        hidden, both = 2 + step.width % 4, step.other % 2 == 1
        self.out = hidden * (2 if both else 1)
        kind = (nn.LSTM, nn.GRU, nn.RNN)[step.option % 3]
        self.cell = kind(channels, hidden, num_layers=1 + step.source % 2, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return image(self.cell(pixels(x))[0], x)


class _Stated(StepModule):
    """States widths that it holds: in a reshape, a shape of a scale, pieces, or a slice."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.option = step.option % 4
        self.width, self.first = 4 + step.width % 3, 2
        self.parts, self.shape = (2, self.width - 2), (self.width, 1, 1)
        self.out = self.first if self.option == 3 else self.width
        self.conv = nn.Conv2d(channels, self.width, 1)
        self.scale = nn.Parameter(torch.ones(self.width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.conv(x)
        if self.option == 0:
            return x.flatten(1).reshape(len(x), self.width, *x.shape[2:])
        if self.option == 1:
            return x * self.scale.view(self.shape)
        if self.option == 2:
            a, b = x.split(self.parts, 1)  # type: ignore[no-untyped-call]
            return torch.cat([b, a.sin()], 1)
        return x[:, : self.first]


class _Numbered(StepModule):
    """States widths that no attribute tells: as a number, in pieces, or by division."""

    def __init__(self, channels: int, other: int, step: Step) -> None:
        super().__init__()
        self.option = step.option % 4
        self.heads = 1 + step.other % 3
        self.numbers = {"first": 2, "rest": 1 + step.width % 4}  # sizes are looked for in integers and tuples
        width = sum(self.numbers.values()) if self.option < 2 else self.heads * (1 + step.width % 3)
        self.out = channels
        self.up, self.down = nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        made = torch.sigmoid(self.norm(self.up(x)))
        if self.option == 0:
            made = made.flatten(2).reshape(len(x), self.numbers["first"] + self.numbers["rest"], *x.shape[2:])
        elif self.option == 1:
            a, b = made.split((self.numbers["first"], self.numbers["rest"]), 1)  # type: ignore[no-untyped-call]
            made = torch.cat([b, a.sin()], 1)
        else:
            c = made.shape[1]
            heads = made.reshape(len(x), self.heads, c // self.heads, -1)
            if self.option == 3:
                heads = (heads @ heads.mT / 4).softmax(-1) @ heads
            made = heads.reshape(len(x), c, *x.shape[2:])
        found: Tensor = self.down(made)
        return x + found


SEQUENCE_STEPS: dict[str, type[StepModule]] = {
    "attention": _Attention,
    "statistic": _Statistic,
    "recurrence": _Recurrence,
    "stated": _Stated,
    "numbered": _Numbered,
}
