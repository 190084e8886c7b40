"""Residual classifiers with batch norm, of MNIST or of scikit-learn's digits, trained once for each seed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import MNIST

from studies.autoencoders import mnist_root
from studies.training import WORK, fit, kept

BATCH, RATE = 128, 5e-3
QUICK_STEPS = 20
STEPS = {"digits": 600, "mnist": 860, "mnist halved": 860, "few": 60}


@dataclass(frozen=True, slots=True)
class Part:
    """Images (N, 1, H, W) in [0, 1] and their classes (N,)."""

    images: Tensor
    classes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Handwritten digits.

    Attributes:
        name: Of the data set.
        training: What networks are trained on.
        calibration: Images (N, 1, H, W) without classes, neither trained nor searched on.
        validation: What a search's metric is measured on.
        test: What no training and no search sees.
    """

    name: str
    training: Part
    calibration: Tensor
    validation: Part
    test: Part


def digits() -> Digits:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels; half of the 1,000 training images calibrate too."""
    images, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(classes)
    return Digits(
        name="digits",
        training=Part(x[:1000], y[:1000]),
        calibration=x[:512],
        validation=Part(x[1000:1400], y[1000:1400]),
        test=Part(x[1400:], y[1400:]),
    )


def few() -> Digits:
    """Return the small digits, for networks that are hardly trained: they show that a study runs."""
    return replace(digits(), name="few")


def mnist() -> Digits:
    """Return MNIST: 55,000 training images, 1,000 for calibration, 2,000 for validation, 10,000 test images."""
    root = mnist_root()

    def read(*, train: bool) -> Part:
        found = MNIST(root or str(WORK), train=train, download=root is None)
        return Part(found.data.float().div(255).unsqueeze(1), found.targets)

    whole = read(train=True)
    return Digits(
        name="mnist",
        training=Part(whole.images[:55000], whole.classes[:55000]),
        calibration=whole.images[55000:56000],
        validation=Part(whole.images[56000:58000], whole.classes[56000:58000]),
        test=read(train=False),
    )


def halved(data: Digits) -> Digits:
    """Return the same digits with half as many pixels a side, each the mean of four."""
    half = nn.AvgPool2d(2)
    parts = {name: getattr(data, name) for name in ("training", "validation", "test")}
    return Digits(
        name=f"{data.name} halved",
        calibration=half(data.calibration),
        **{name: Part(half(part.images), part.classes) for name, part in parts.items()},
    )


class Block(nn.Module):
    """Two convolutions with batch norm, and what they add to."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and width_in == width
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of (N, width_in, H, W)."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def classifier(side: int) -> nn.Sequential:
    """Return a residual network for images of `side` x `side` pixels, 28, 14 or 8, and ten classes."""
    widths, stride = ((24, 48), 1) if side == 8 else ((16, 32, 64), 2)
    layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for before, width in itertools.pairwise((widths[0], *widths)):
        layers += [Block(before, width, 1 if before == width else 2), Block(width, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def trained(seed: int, data: Digits, *, quick: bool = False) -> nn.Sequential:
    """Return a classifier trained with Adam, read from its file if it was trained before; `quick`: hardly trained."""
    torch.manual_seed(seed)
    model = classifier(data.calibration.shape[-1])
    if quick:
        train(model, data.training, QUICK_STEPS, RATE)
        return model.eval()
    name = f"{data.name} classifier {seed}"
    return kept(model, name, lambda model: train(model, data.training, STEPS[data.name], RATE))


def train(model: nn.Module, part: Part, steps: int, rate: float) -> None:
    """Train in place on cross entropy: Adam, one cycle of the learning rate up to `rate`, batches of 128."""

    def loss_of(rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(part.images[rows]), part.classes[rows])

    fit(model, loss_of, count=len(part.images), batch=BATCH, steps=steps, rate=rate)


def accuracy(model: nn.Module, part: Part) -> float:
    """Return the share of images whose class is right, in [0, 1]."""
    with torch.no_grad():
        right = [
            (model(images).argmax(1) == classes).sum()
            for images, classes in zip(part.images.split(500), part.classes.split(500), strict=True)  # type: ignore[no-untyped-call]
        ]
    return torch.stack(right).sum().item() / len(part.classes)


def with_statistics_of(model: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norms the statistics of some images, in place: one pass in train mode that learns nothing else."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    model.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
