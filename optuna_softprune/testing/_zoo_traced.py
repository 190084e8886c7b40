"""Submodules whose code states a size that nothing holds: in a smaller network they run their own graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class WidthPerHead(nn.Module):
    """Attention with heads as wide as the input has channels for each, and zeros and a mask of its own."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros(heads, 1, 1))
        self.out = nn.Linear(channels, channels)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, *, causal: bool) -> tuple[Tensor, None]:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / 2 + self.bias
        if causal:
            scores = scores + torch.full((t, t), float("-inf"), device=x.device).triu(1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c)
        return self.drop(self.out(y)), None


class TracedHeads(nn.Module):
    """Residual attention, whose width is another one than the residual's after pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.attention = WidthPerHead(6, 3)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.head(x + self.attention(x, causal=True)[0])
        return y


class Numbered(nn.Module):
    """A block that states its inner width as a number, and goes through the examples one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(5, 7, 1)
        self.norm = nn.BatchNorm2d(7)
        self.down = nn.Conv2d(7, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.up(x))).transpose(1, 2).reshape(x.shape[0] * x.shape[2], 7, x.shape[3])
        z: Tensor = self.down(y.view(x.shape[0], x.shape[2], 7, x.shape[3]).transpose(1, 2))
        return x + z


class TracedBlocks(nn.Module):
    """One block that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 3, padding=1)
        self.block = Numbered()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.block(self.stem(x)))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class Pieces(nn.Module):
    """Cuts what it is given into pieces of unequal length, and mixes one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.split((2, 3, 2), 1)  # type: ignore[no-untyped-call]
        return torch.cat([c.sin(), self.mixed(b), a], 1)


class TracedPieces(nn.Module):
    """Channels that are cut into unequal pieces by numbers in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 7, 3, padding=1)
        self.pieces = Pieces()
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.pieces(self.stem(x)).amax(2))
        return y


TRACED: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "traced_heads",
        TracedHeads,
        lambda: (normal(2, 5, 4),),
        {
            "stem": (6, "stem attention.qkv:1 attention.out head:1"),
            "attention.qkv": (3, "attention.qkv attention.bias:0 attention.out:1"),
        },
    ),
    ZooNetwork(
        "traced_blocks",
        TracedBlocks,
        lambda: (normal(2, 1, 4, 4),),
        {
            "stem": (5, "stem block.up:1 block.down head:1"),
            "block.up": (7, "block.up block.norm block.down:1"),
        },
    ),
    ZooNetwork(
        "traced_pieces",
        TracedPieces,
        lambda: (normal(2, 2, 6),),
        {
            "stem/1": (2, "stem head:1"),
            "stem/2": (3, "stem pieces.mixed:1"),
            "stem/3": (2, "stem head:1"),
            "pieces.mixed": (3, "pieces.mixed head:1"),
        },
    ),
)
