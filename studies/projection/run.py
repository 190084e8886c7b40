"""TPE projected onto the target against TPE that has it as a constraint only: how good are the networks?"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

from optuna_softprune import ActivationEnergy, Calibration, PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import ProjectedSampler, baselines
from studies.command import command
from studies.rows import Rows, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studies.rows import Row

COLUMNS = ["network", "target", "seed", "sampler", "trials", "feasible", "best validation dB", "held-out dB"]


def psnr(model: nn.Module, images: Tensor) -> float:
    """Return the peak signal-to-noise ratio of reconstructions, in dB."""
    with torch.no_grad():
        return -10 * math.log10((model(images) - images).square().mean().item())


def digits_network() -> nn.Sequential:
    """Return the convolutional autoencoder of the quickstart."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 16), nn.Linear(16, 64), nn.ReLU()),
        *(nn.Linear(64, 32 * 16), nn.ReLU(), nn.Unflatten(1, (32, 4, 4)), nn.ConvTranspose2d(32, 16, 2, stride=2)),
        *(nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()),
    )


def mlp_network() -> nn.Sequential:
    """Return an autoencoder of linear layers, 784-256-128-32 and back."""
    widths = (784, 256, 128, 32, 128, 256, 784)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Return scikit-learn's digits for training, validation and test."""
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
    return images[:1200], images[1200:1500], images[1500:]


def mnist() -> tuple[Tensor, Tensor, Tensor]:
    """Return images of MNIST for training, validation and test."""
    from torchvision.datasets import MNIST

    root = os.environ.get("MNIST_ROOT", "data")
    train, test = (MNIST(root, train=train, download="MNIST_ROOT" not in os.environ) for train in (True, False))
    images, tests = (found.data.reshape(-1, 784).float() / 255 for found in (train, test))
    return images[:20_000], images[20_000:21_000], tests[:2_000]


def trained(model: nn.Sequential, images: Tensor, epochs: int, seed: int) -> nn.Sequential:
    """Return `model`, trained to reconstruct `images`."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.split(images[torch.randperm(len(images), generator=generator)], 64):
            optimiser.zero_grad()
            (model(batch) - batch).square().mean().backward()
            optimiser.step()
    return model.eval()


def row_of(*values: Any) -> Row:
    """Return values under their columns, the dB with two digits."""
    return dict(zip(COLUMNS, (*values[:-2], *(round(value, 2) for value in values[-2:])), strict=True))


def search(
    name: str, space: PruningSpace, data: Sequence[Tensor], target: float, seed: int, marks: Sequence[int]
) -> list[Row]:
    """Return the rows of one network, target and seed."""
    constraint = SparsityConstraint(space, target)
    rows: list[Row] = []
    for label in ("uniform", "local norm"):
        small = space.prune(baselines(space, constraint)[label])
        values = [psnr(small, images) for images in data[1:]]
        rows.append(row_of(name, target, seed, label, 0, 1, *values))
    samplers = {
        "TPE, constraint only": optuna.samplers.TPESampler(seed=seed),
        "TPE, projected": ProjectedSampler(optuna.samplers.TPESampler(seed=seed), constraint),
    }
    for label, sampler in samplers.items():
        study = optuna.create_study(direction="maximize", sampler=sampler)
        objective = PruningObjective(space, lambda model: psnr(model, data[1]), constraint)
        for mark in marks:
            study.optimize(objective, n_trials=mark - len(study.trials))
            feasible = sum(trial.user_attrs["softprune:feasible"] for trial in study.trials)
            best, held_out = float("nan"), float("nan")
            if feasible:
                best, held_out = study.best_value, psnr(objective.best_model(study), data[2])
            rows.append(row_of(name, target, seed, label, mark, feasible, best, held_out))
    return rows


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing of two networks, two targets and three seeds; or one small search."""
    networks: dict[str, Any] = {"digits, convolutional": (digits, digits_network, 1 if quick else 60)}
    if not quick:
        networks["MNIST, linear"] = (mnist, mlp_network, 6)
    targets, marks = ((0.5,), (10,)) if quick else ((0.5, 0.7), (100, 300))
    for (name, (load, build, epochs)), seed in tqdm(
        list(itertools.product(networks.items(), range(1 if quick else 3)))
    ):
        if all((name, target, seed, "TPE, projected", marks[-1]) in rows for target in targets):
            continue
        data = load()
        torch.manual_seed(seed)
        model = trained(build(), data[0], epochs, seed)
        space = PruningSpace(model, (data[0][:1],), importance=ActivationEnergy(Calibration([(data[0][:256],)])))
        for target in targets:
            rows.keep(*search(name, space, data, target, seed, marks))


if __name__ == "__main__":
    quick, file = "one network, one target, one seed, ten trials", Path(__file__).parent / "results.csv"
    command(measure, markdown, columns=COLUMNS, keys=5, file=file, quick=quick)
