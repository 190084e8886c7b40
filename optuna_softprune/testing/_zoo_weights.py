"""Weights that the forward pass computes: from other parameters, and with statistics over what shrinks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class LowRank(nn.Module):
    """A frozen matrix plus a product of two small ones, whose inner width can shrink too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 7)
        self.weight = nn.Parameter(torch.randn(6, 7), requires_grad=False)
        self.a, self.b = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(3, 7))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.tanh(F.linear(torch.tanh(self.stem(x)), self.weight + 0.5 * self.a @ self.b)))
        return y


class Standardised(nn.Module):
    """Kernels of mean 0 and variance 1, spelled out and by a batch norm of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.a, self.b = nn.Parameter(torch.randn(5, 6, 3, 3)), nn.Parameter(torch.randn(7, 5, 3, 3))
        self.gain = nn.Parameter(torch.rand(7))
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.a, dim=(1, 2, 3), keepdim=True)
        x = F.relu(F.conv2d(F.relu(self.stem(x)), (self.a - mean) / (var + 1e-5).sqrt(), padding=1))
        flat = F.batch_norm(self.b.reshape(1, len(self.b), -1), None, None, self.gain, training=True, momentum=0.0)
        y: Tensor = self.head(F.relu(F.conv2d(x, flat.reshape_as(self.b), padding=1)))
        return y


class Parametrised(nn.Module):
    """Weight norm and spectral norm as parametrisations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = parametrizations.weight_norm(nn.Conv1d(3, 6, 3, padding=1))
        self.middle = parametrizations.spectral_norm(nn.Conv1d(6, 5, 3, padding=1))
        self.head = parametrizations.weight_norm(nn.Conv1d(5, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.leaky_relu(self.middle(F.leaky_relu(self.stem(x)))))
        return y


_NORM, _SPECTRAL = "parametrizations.weight.original", "middle.parametrizations.weight"
WEIGHTS: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "low_rank",
        LowRank,
        lambda: (normal(5, 4),),
        {
            "stem": (7, "stem weight:1 b:1"),
            "a/1": (6, "weight:0 a:0 head:1"),
            "a/2": (3, "a:1 b:0"),
        },
    ),
    ZooNetwork(
        "standardised",
        Standardised,
        lambda: (normal(2, 3, 5, 5),),
        {
            "a/1": (5, "a:0 b:1"),
            "a/2": (6, "stem a:1"),
            "b": (7, "b:0 gain:0 head:1"),
        },
    ),
    ZooNetwork(
        "parametrised",
        Parametrised,
        lambda: (normal(2, 3, 7),),
        {
            "stem": (
                6,
                f"stem stem.{_NORM}0:0 stem.{_NORM}1:0 {_SPECTRAL}.original:1 {_SPECTRAL}.0._v:0",
            ),
            "middle": (5, f"middle {_SPECTRAL}.original:0 {_SPECTRAL}.0._u:0 head.{_NORM}1:1"),
        },
    ),
)
