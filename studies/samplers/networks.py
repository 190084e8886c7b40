"""Which sampler finds most in networks of 20 groups and more, in 50 to 300 calls? Small networks of the digits."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler
from torch import nn
from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
)
from optuna_softprune.samplers import (
    FiniteDifferenceSampler,
    ProjectedSampler,
    SLSQPSampler,
    additive_sweep,
    baselines,
)
from studies import autoencoders, classifiers
from studies.command import command
from studies.reconstruction.transformer import VisionTransformer
from studies.samplers.run import best_so_far
from studies.searching import searched
from studies.training import kept

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from optuna.samplers import BaseSampler

    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "networks.csv"
BUDGETS = (50, 100, 300)
# Widths of the twenty hidden layers; the code is the narrowest.
WIDTHS = (56, 52, 48, 44, 40, 36, 32, 28, 24, 12, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60)
KEYS = ["network", "seed", "method"]
COLUMNS = [*KEYS, "groups", "dense", "start", *(f"best_{calls}" for calls in BUDGETS), "seconds"]
# Method -> its sampler, and whether each group is measured alone first.
METHODS: dict[str, tuple[Callable[[SparsityConstraint, int], BaseSampler], bool]] = {
    "simultaneous": (lambda c, seed: FiniteDifferenceSampler(c, seed=seed, scheme="simultaneous"), False),
    "simultaneous, sweep": (lambda c, seed: FiniteDifferenceSampler(c, seed=seed, scheme="simultaneous"), True),
    "one-sided": (lambda c, seed: FiniteDifferenceSampler(c, seed=seed), False),
    "one-sided, sweep": (lambda c, seed: FiniteDifferenceSampler(c, seed=seed), True),
    "SLSQP": (lambda c, seed: SLSQPSampler(c, seed=seed), False),
    "TPE": (lambda c, seed: ProjectedSampler(TPESampler(seed=seed), c), False),
    "CMA-ES": (lambda c, seed: ProjectedSampler(CmaEsSampler(seed=seed), c), False),
    "random": (lambda c, seed: ProjectedSampler(RandomSampler(seed=seed), c), False),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Networks of one kind.

    Attributes:
        trained: The seed of a training -> network, in eval mode.
        metric: What is searched.
        calibration: Images that units are ranked and weights are refitted with.
        target: The sparsity.
        seeds: Trainings.
        calls: Metric calls of a search.
    """

    trained: Callable[[int], nn.Module]
    metric: Callable[[nn.Module], float]
    calibration: torch.Tensor
    target: float
    seeds: int
    calls: int


def deep_autoencoder() -> nn.Sequential:
    """Return a fully connected autoencoder of 8 x 8 pixels with twenty hidden layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise((64, *WIDTHS)):
        layers += [nn.Linear(a, b), nn.SELU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="linear")  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))


def deep_classifier() -> nn.Sequential:
    """Return a residual network of twenty blocks for 8 x 8 pixels and ten classes."""
    blocks = [classifiers.Block(8, 8, 1) for _ in range(10)]
    blocks += [classifiers.Block(8, 16, 2), *(classifiers.Block(16, 16, 1) for _ in range(9))]
    stem = [nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def cases(quick: bool) -> dict[str, Case]:
    """Return the networks by name."""
    images, data = autoencoders.digits(), classifiers.digits()

    def autoencoder(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        steps = 20 if quick else 3000
        train = lambda model: autoencoders.train(model, images.training, steps, 3e-3)  # noqa: E731
        return kept(deep_autoencoder(), f"deep autoencoder {seed} of {steps} steps", train)

    def classifier(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        train = lambda model: classifiers.train(model, data.training, 400, 5e-3)  # noqa: E731
        return kept(deep_classifier(), f"deep classifier {seed}", train)

    def transformer(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        train = lambda model: classifiers.train(model, data.training, 1000, 2e-3)  # noqa: E731
        return kept(VisionTransformer(16, 10), f"deep vision transformer {seed}", train)

    def psnr(network: nn.Module) -> float:
        return autoencoders.psnr(network, images.validation)

    def accuracy(network: nn.Module) -> float:
        return classifiers.accuracy(network, data.validation)

    if quick:
        return {"autoencoder": Case(autoencoder, psnr, images.calibration, 0.5, 1, 12)}
    return {
        "autoencoder": Case(autoencoder, psnr, images.calibration, 0.5, 3, 300),
        "classifier": Case(classifier, accuracy, data.calibration, 0.5, 1, 300),
        "transformer": Case(transformer, accuracy, data.calibration, 0.3, 1, 300),
    }


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    for name, case in cases(quick).items():
        for seed in range(case.seeds):
            if all((name, seed, method) in rows for method in METHODS):
                continue
            model, calibration = case.trained(seed), Calibration([(case.calibration,)])
            order, refit = ReconstructionError(calibration), LeastSquares(calibration)
            space = PruningSpace(model, (case.calibration[:2],), importance=order, reconstruction=refit)
            constraint = SparsityConstraint(space, case.target)
            objective = PruningObjective(space, case.metric, constraint)
            starts = baselines(space, constraint).values()
            facts = {"network": name, "seed": seed, "groups": len(space.groups), "dense": case.metric(model)}
            for method, (sampler, sweep) in tqdm(METHODS.items(), desc=f"{name}, training {seed}"):
                if (name, seed, method) not in rows:
                    start = time.process_time()
                    first = [*starts, *(additive_sweep(constraint) if sweep and not quick else [])]
                    study = searched(objective, sampler(constraint, seed), first, case.calls)
                    found = _row(best_so_far(study), len(starts))
                    seconds = round(time.process_time() - start, 1)
                    rows.keep({**facts, "method": method, **found, "seconds": seconds})


def _row(best: np.ndarray[tuple[int], np.dtype[np.float64]], starts: int) -> Row:
    budgets = {f"best_{calls}": float(best[calls - 1]) for calls in BUDGETS if calls <= len(best)}
    return {"start": float(best[starts - 1]), **budgets}


def tables(rows: Rows) -> list[str]:
    """Return the lines of a Markdown table of each network: what was found after so many calls."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = rows.where(network=network)
        first = mine[0]
        each = {row["seed"]: row for row in mine}.values()
        dense, start = (statistics.mean(row[name] for row in each) for name in ("dense", "start"))
        lines += [
            f"{network.capitalize()}, {first['groups']} groups, {len(each)} trainings: dense {dense:.3f}, "
            f"best heuristic {start:.3f}.",
            "",
            "| method | " + " | ".join(f"after {calls}" for calls in BUDGETS) + " |",
            "| --- |" + " --- |" * len(BUDGETS),
        ]
        for method in METHODS:
            cells = [_mean([row[f"best_{calls}"] for row in mine if row["method"] == method]) for calls in BUDGETS]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _mean(values: list[float | str]) -> str:
    """Return the mean, with the least and the most of several."""
    found = [each for each in values if not isinstance(each, str)]
    if not found:
        return ""
    return f"{statistics.mean(found):.3f}" + (f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else "")


if __name__ == "__main__":
    quick = "a network that is hardly trained, 12 calls"
    command(measure, tables, columns=COLUMNS, keys=len(KEYS), file=FILE, quick=quick)
