"""Statistics over channels that shrink: they are those of what is kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class RootMeanSquares(nn.Module):
    """RMS norm as a module, and spelled out in the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.up = nn.Linear(6, 8)
        self.norm = nn.RMSNorm(8)
        self.down = nn.Linear(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        z: Tensor = self.head(x + self.down(self.norm(self.up(y))))
        return z


class ResponseNorms(nn.Module):
    """Global response norm, and local response norm over neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 7, 1), nn.Conv2d(7, 2, 1)
        self.gamma, self.beta = nn.Parameter(torch.rand(1, 8, 1, 1)), nn.Parameter(torch.rand(1, 8, 1, 1))
        self.local = nn.LocalResponseNorm(4, alpha=1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.a(x))
        energy = x.norm(p=2, dim=(2, 3), keepdim=True)
        x = x + self.gamma * (x * energy / (energy.mean(1, keepdim=True) + 1e-6)) + self.beta
        y: Tensor = self.c(self.local(F.relu(self.b(x))))
        return y


class ChannelStatistics(nn.Module):
    """A gate from the mean and the maximum over channels, one from neighbouring channels, and unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 1), nn.Conv2d(7, 8, 1)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)
        self.neighbours = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * torch.sigmoid(self.gate(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)))
        x = self.b(x)
        x = x * torch.sigmoid(self.neighbours(x.mean((2, 3)).unsqueeze(1)).squeeze(1))[:, :, None, None]
        y: Tensor = self.head(F.normalize(self.c(x), dim=1).flatten(2).mean(2).softmax(1))
        return y


STATISTICS: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "root_mean_squares",
        RootMeanSquares,
        lambda: (torch.tensor([[1, 4, 9], [10, 0, 3]]),),
        {
            "embed": (6, "embed:1 scale:0 up:1 down head:1"),
            "up": (8, "up norm down:1"),
        },
    ),
    ZooNetwork(
        "response_norms",
        ResponseNorms,
        lambda: (normal(2, 3, 5, 5),),
        {
            "a": (8, "a gamma:1 beta:1 b:1"),
            "b": (7, "b c:1"),
        },
    ),
    ZooNetwork(
        "channel_statistics",
        ChannelStatistics,
        lambda: (normal(2, 3, 5, 5),),
        {
            "a": (6, "a b:1"),
            "b": (7, "b c:1"),
            "c": (8, "c head:1"),
        },
    ),
)
