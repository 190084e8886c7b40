"""The fully connected autoencoder of MNIST, trained once for each seed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import MNIST

WIDTHS = (784, 512, 256, 32, 256, 512, 784)
SMALL_WIDTHS = (64, 32, 16, 6, 16, 32, 64)
EPOCHS, BATCH, RATE = 10, 256, 3e-3
VALIDATION = 1000


def mnist() -> Tensor:
    """Return the training images (60000, 784) in [0, 1], from `MNIST_ROOT` or downloaded."""
    root = os.environ.get("MNIST_ROOT")
    found = MNIST(root or str(Path(__file__).parent / "work"), train=True, download=root is None)
    images: Tensor = found.data.float().div(255).flatten(1)
    return images


def digits() -> Tensor:
    """Return scikit-learn's small handwritten digits (1797, 64) in [0, 1]."""
    return torch.tensor(load_digits().images, dtype=torch.float32).div(16).flatten(1)


def autoencoder(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers with ReLU between them and a sigmoid behind the last."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def trained(seed: int, images: Tensor, widths: tuple[int, ...], file: Path) -> nn.Sequential:
    """Return the autoencoder trained on `images` (N, D), read from `file` if it was trained before."""
    torch.manual_seed(seed)
    model = autoencoder(widths)
    if file.exists():
        model.load_state_dict(torch.load(file))
        return model.eval()
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:  # type: ignore[no-untyped-call]
            loss = nn.functional.mse_loss(model(images[rows]), images[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    file.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), file)
    return model.eval()
