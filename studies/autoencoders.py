"""Autoencoders of MNIST's digits, or of scikit-learn's smaller ones, trained once for each seed."""

from __future__ import annotations

import itertools
import math
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import MNIST

from studies.training import WORK, fit, kept

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, RATE = 256, 3e-3
EPOCHS = {"fully connected": 10, "convolutional": 5, "fully convolutional": 5}
NETWORKS = tuple(EPOCHS)
LEAST_STEPS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images (N, 1, H, W) in [0, 1].

    Attributes:
        name: Of the data set.
        training: What networks are trained on.
        calibration: What ranks units; neither trained nor searched on.
        validation: What a search's metric is measured on.
        test: What no training and no search sees.
    """

    name: str
    training: Tensor
    calibration: Tensor
    validation: Tensor
    test: Tensor


def mnist_root() -> str | None:
    """Return where MNIST is; None: it is to be downloaded."""
    return os.environ.get("MNIST_ROOT")


def mnist() -> Images:
    """Return MNIST from `MNIST_ROOT`, or downloaded: 55,000 training images, 1,000 of each kind, 10,000 test images."""
    root = mnist_root()

    def read(*, train: bool) -> Tensor:
        found = MNIST(root or str(WORK), train=train, download=root is None)
        images: Tensor = found.data.float().div(255).unsqueeze(1)
        return images

    images = read(train=True)
    return Images(
        name="mnist",
        training=images[:-5000],
        calibration=images[-2000:-1000],
        validation=images[-1000:],
        test=read(train=False),
    )


def digits() -> Images:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
    training, calibration, validation, test = images.split([1200, 200, 200, len(images) - 1600])  # type: ignore[no-untyped-call]
    return Images(name="digits", training=training, calibration=calibration, validation=validation, test=test)


def autoencoder(kind: str, side: int) -> nn.Sequential:
    """Return an autoencoder of images with `side` x `side` pixels: 28, or 8 with narrower layers.

    `kind` is "fully connected" (five groups; 784-512-256-32 and back), "convolutional" (with flatten and unflatten) or
    "fully convolutional".
    """
    build: dict[str, Callable[[int], tuple[list[nn.Module], list[nn.Module]]]] = {
        "fully connected": _fully_connected,
        "convolutional": _convolutional,
        "fully convolutional": _fully_convolutional,
    }
    encoder, decoder = build[kind](side)
    return nn.Sequential(OrderedDict(encoder=nn.Sequential(*encoder), decoder=nn.Sequential(*decoder)))


def _fully_connected(side: int) -> tuple[list[nn.Module], list[nn.Module]]:
    widths = (784, 512, 256, 32) if side == 28 else (64, 32, 16, 6)
    encoder = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    decoder = [layer for a, b in itertools.pairwise(widths[::-1]) for layer in (nn.Linear(a, b), nn.ReLU())]
    images = [nn.Sigmoid(), nn.Unflatten(1, (1, side, side))]
    return [nn.Flatten(), *encoder], [*decoder[:-1], *images]


def _convolutional(side: int) -> tuple[list[nn.Module], list[nn.Module]]:
    a, b, hidden, code, small = (16, 32, 128, 32, 7) if side == 28 else (6, 8, 16, 6, 2)
    encoder = [nn.Conv2d(1, a, 3, 2, 1), nn.ReLU(), nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    encoder += [nn.Linear(b * small**2, hidden), nn.ReLU(), nn.Linear(hidden, code)]
    decoder = [nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, b * small**2), nn.ReLU()]
    decoder += [nn.Unflatten(1, (b, small, small)), *_upwards(a, b)]
    return encoder, decoder


def _fully_convolutional(side: int) -> tuple[list[nn.Module], list[nn.Module]]:
    a, b, code, small = (16, 64, 32, 7) if side == 28 else (6, 8, 6, 2)
    encoder = [nn.Conv2d(1, a, 3, 2, 1), nn.ReLU(), nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Conv2d(b, code, small)]
    decoder = [nn.ConvTranspose2d(code, b, small), nn.ReLU(), *_upwards(a, b)]
    return encoder, decoder


def _upwards(a: int, b: int) -> list[nn.Module]:
    """Return layers that double the side twice."""
    return [nn.ConvTranspose2d(b, a, 2, 2), nn.ReLU(), nn.ConvTranspose2d(a, 1, 2, 2), nn.Sigmoid()]


def trained(kind: str, seed: int, images: Images) -> nn.Sequential:
    """Return an autoencoder trained with Adam on squared errors, read from its file if it was trained before."""
    torch.manual_seed(seed)
    steps = max(EPOCHS[kind] * (len(images.training) // BATCH), LEAST_STEPS)
    model = autoencoder(kind, images.training.shape[-1])
    return kept(model, f"{images.name} {kind} {seed}", lambda model: train(model, images.training, steps, RATE))


def train(model: nn.Module, images: Tensor, steps: int, rate: float) -> None:
    """Train in place on squared errors: Adam, one cycle of the learning rate up to `rate`, batches of 256."""

    def loss_of(rows: Tensor) -> Tensor:
        return nn.functional.mse_loss(model(images[rows]), images[rows])

    fit(model, loss_of, count=len(images), batch=BATCH, steps=steps, rate=rate)


def psnr(model: nn.Module, images: Tensor) -> float:
    """Return the peak signal-to-noise ratio of the reconstructions of all images together, in dB."""
    with torch.no_grad():
        errors = [(model(batch) - batch).square().sum() for batch in images.split(1000)]  # type: ignore[no-untyped-call]
    return -10 * math.log10(torch.stack(errors).sum().item() / images.numel())
