"""Does a teacher train a smaller network better than its own task, and does what is best before train best?"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from torch import nn
from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
    distill,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines
from studies import autoencoders, classifiers
from studies.command import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "results.csv"
KEYS = ["part", "network", "seed", "target", "method", "rate"]
COLUMNS = [*KEYS, "sparsity", "start", "validation", "test"]
STEPS, BATCH, RATES = 200, 128, (1e-3, 3e-3)
SHORT_STEPS, CALLS = 30, 60
CLASSIFIER_TRAININGS = 1


def batches_of(count: int, steps: int) -> list[Tensor]:
    """Return the rows of `steps` batches, the same for all methods."""
    generator = torch.Generator().manual_seed(0)
    epochs = (torch.randperm(count, generator=generator).split(BATCH)[: count // BATCH] for _ in itertools.count())  # type: ignore[no-untyped-call]
    return list(itertools.islice(itertools.chain.from_iterable(epochs), steps))


def trained(
    small: nn.Module, loss_of: Callable[[nn.Module, Tensor], Tensor], batches: list[Tensor], rate: float
) -> nn.Module:
    """Return a smaller network trained on its own task as `distill` trains: Adam, half a cosine, train mode."""
    small = copy.deepcopy(small).train()
    optimizer = torch.optim.Adam(small.parameters(), lr=rate)
    for step, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimizer.zero_grad()
        loss_of(small, rows).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return small.eval()


def refitted_space(model: nn.Module, images: Tensor) -> PruningSpace:
    """Return the space of networks that are refitted to images."""
    data = Calibration([(images,)])
    return PruningSpace(
        model.eval(), (images[:2],), importance=ReconstructionError(data), reconstruction=LeastSquares(data)
    )


def of_teacher(
    rows: Rows,
    case: tuple[str, int, float],
    dense: Callable[[], nn.Module],
    images: tuple[Tensor, Tensor],
    loss_of: Callable[[nn.Module, Tensor], Tensor],
    measures: dict[str, Callable[[nn.Module], float]],
    quick: bool,
) -> None:
    """Train the uniform network on by its own task and by its teacher, with the same batches.

    Args:
        rows: What is kept.
        case: Network, seed and target.
        dense: Returns the dense network.
        images: To train on, and to calibrate and measure errors on.
        loss_of: (network, rows of the images) -> loss of the network's own task.
        measures: Name of the part of the data -> metric.
        quick: Whether few steps are enough.
    """
    training, calibration = images
    steps = 4 if quick else STEPS
    picked = batches_of(len(training), steps)

    def on_its_own(small: nn.Module, rate: float) -> nn.Module:
        return trained(small, loss_of, picked, rate)

    def taught(small: nn.Module, rate: float, *, layers: bool) -> nn.Module:
        batches, held_out = [(training[each],) for each in picked], [(calibration,)]
        settings: dict[str, Any] = {"layers": layers, "validation": held_out, "show_progress_bar": False}
        return distill(small, model, batches, steps=steps, learning_rate=rate, **settings)

    methods: dict[str, Callable[[nn.Module, float], nn.Module]] = {
        "dense": lambda _, rate: model,
        "on its own task": on_its_own,
        "by its outputs": functools.partial(taught, layers=False),
        "by its inputs too": functools.partial(taught, layers=True),
    }
    missing = [(method, rate) for method in methods for rate in RATES if ("teacher", *case, method, rate) not in rows]
    if not missing:
        return
    model = dense()
    space = refitted_space(model, calibration)
    c = baselines(space, SparsityConstraint(space, case[2], tolerance=0.03))["uniform"]
    small = space.prune(c)
    start = measures["test"](small)
    for method, rate in missing:
        network = methods[method](small, rate)
        key = {"part": "teacher", **dict(zip(KEYS[1:4], case, strict=True)), "method": method, "rate": rate}
        found = {name: measure(network) for name, measure in measures.items()}
        rows.keep({**key, "sparsity": space.sparsity(c), "start": start, **found})


def of_autoencoder(rows: Rows, images: autoencoders.Images, case: tuple[str, int, float], quick: bool) -> None:
    """Teach an autoencoder."""
    measures: dict[str, Callable[[nn.Module], float]] = {
        "validation": lambda network: autoencoders.psnr(network, images.validation),
        "test": lambda network: autoencoders.psnr(network, images.test),
    }

    def loss_of(network: nn.Module, picked: Tensor) -> Tensor:
        return nn.functional.mse_loss(network(images.training[picked]), images.training[picked])

    dense = functools.partial(autoencoders.trained, case[0], case[1], images)
    of_teacher(rows, case, dense, (images.training, images.calibration), loss_of, measures, quick)


def of_classifier(rows: Rows, data: classifiers.Digits, case: tuple[str, int, float], quick: bool) -> None:
    """Teach a classifier."""
    measures: dict[str, Callable[[nn.Module], float]] = {
        "validation": lambda network: classifiers.accuracy(network, data.validation),
        "test": lambda network: classifiers.accuracy(network, data.test),
    }

    def loss_of(network: nn.Module, picked: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(data.training.images[picked]), data.training.classes[picked])

    dense = functools.partial(classifiers.trained, case[1], data)
    of_teacher(rows, case, dense, (data.training.images, data.calibration), loss_of, measures, quick)


def of_metric(rows: Rows, images: autoencoders.Images, case: tuple[str, int, float], quick: bool) -> None:
    """Search by the metric as it is and by the metric after a short training; train both on."""
    key = {"part": "metric", **dict(zip(KEYS[1:4], case, strict=True))}
    short, calls, steps, tolerance = (2, 8, 4, 0.03) if quick else (SHORT_STEPS, CALLS, STEPS, 0.005)
    model = autoencoders.trained(case[0], case[1], images)
    made = {
        "refitted": refitted_space(model, images.calibration),
        "cut": PruningSpace(
            model, (images.calibration[:2],), importance=ReconstructionError(Calibration([(images.calibration,)]))
        ),
    }
    picked = batches_of(len(images.training), steps)

    def loss_of(network: nn.Module, picked: Tensor) -> Tensor:
        return nn.functional.mse_loss(network(images.training[picked]), images.training[picked])

    def on(network: nn.Module, steps: int) -> nn.Module:
        return trained(network, loss_of, picked[:steps], RATES[0])

    def psnr(network: nn.Module) -> float:
        return autoencoders.psnr(network, images.validation)

    for (kind, space), after in itertools.product(made.items(), (0, short)):
        method = f"{kind}, metric {f'after {after} steps' if after else 'as it is'}"
        if (*key.values(), method, RATES[0]) in rows:
            continue
        constraint = SparsityConstraint(space, case[2], tolerance=tolerance)
        finish = functools.partial(on, steps=after) if after else None
        objective = PruningObjective(space, psnr, constraint, finish=finish)
        study = optuna.create_study(direction="maximize", sampler=FiniteDifferenceSampler(constraint))
        study.optimize(objective, n_trials=calls)
        c = space.coefficients(study.best_trial.params)
        start, end = (autoencoders.psnr(each, images.test) for each in (space.prune(c), on(space.prune(c), steps)))
        found = {"sparsity": space.sparsity(c), "start": start, "validation": study.best_value, "test": end}
        rows.keep({**key, "method": method, "rate": RATES[0], **found})


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    images, data = autoencoders.digits() if quick else autoencoders.mnist(), classifiers.digits()
    names = ("fully connected",) if quick else autoencoders.NETWORKS
    for name, target in tqdm(list(itertools.product(names, (0.7, 0.5)[: 1 if quick else 2])), desc="autoencoders"):
        of_autoencoder(rows, images, (name, 0, target), quick)
    for seed in tqdm(range(1 if quick else CLASSIFIER_TRAININGS), desc="classifiers"):
        of_classifier(rows, data, ("digits classifier", seed, 0.7), quick)
    for target in tqdm((0.7,) if quick else (0.7, 0.5), desc="metrics"):
        of_metric(rows, images, ("fully connected", 0, target), quick)


def tables(rows: Rows) -> list[str]:
    """Return the tables in Markdown: of each method the rate that is best on validation data."""
    head = ("dense", "before", "on its own task", "by its outputs", "by its inputs too")
    lines = [f"| network | removed | {' | '.join(head)} |", "| --- | --- |" + " --- |" * len(head)]
    mine = rows.where(part="teacher")
    for network, target in dict.fromkeys((row["network"], row["target"]) for row in mine):
        found = [row for row in mine if (row["network"], row["target"]) == (network, target)]
        seeds = list(dict.fromkeys(row["seed"] for row in found))

        def best(method: str, seed: int, found: list[Row] = found) -> Row:
            return max(
                (row for row in found if (row["method"], row["seed"]) == (method, seed)), key=lambda r: r["validation"]
            )

        values = [[best(method, seed)["test"] for seed in seeds] for method in ("dense", *head[2:])]
        values.insert(1, [best("dense", seed)["start"] for seed in seeds])
        digits = 3 if "classifier" in network else 2
        lines.append(f"| {network} | {target:.0%} | {' | '.join(f'{np.mean(v):.{digits}f}' for v in values)} |")
    lines += ["", "| removed | what is searched | before training | after 200 steps |", "| --- | --- | --- | --- |"]
    mine = rows.where(part="metric")
    for target, method in dict.fromkeys((row["target"], row["method"]) for row in mine):
        found = [row for row in mine if (row["target"], row["method"]) == (target, method)]
        before, after = (np.mean([row[name] for row in found]) for name in ("start", "test"))
        lines.append(f"| {target:.0%} | {method} | {before:.2f} | {after:.2f} |")
    return lines


if __name__ == "__main__":
    command(measure, tables, columns=COLUMNS, keys=len(KEYS), file=FILE, quick="scikit-learn's digits, few steps")
