"""What is refitting worth: afterwards, in the search, by order of units, ridge and samples, and with batch norm?"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch
from torch import nn
from tqdm import tqdm

from optuna_softprune import (
    ActivationEnergy,
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines
from studies import autoencoders, classifiers
from studies.command import command
from studies.mnist_autoencoder.methods import RIDGE, refitting
from studies.mnist_autoencoder.tables import TRAININGS, interval
from studies.reconstruction.transformer import of_transformers
from studies.searching import HEURISTICS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from optuna_softprune import Importance
    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "results.csv"
KEYS = ["part", "network", "seed", "target", "method", "order"]
COLUMNS = [*KEYS, "sparsity", "validation", "test", "test_tuned", "calls"]
CALLS = 120
CLASSIFIER_CALLS = {"digits": 120, "mnist": 60, "few": 8}
TUNING_STEPS, TUNING_RATE = 200, 1e-3
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SAMPLES = (64, 128, 256, 512, 1000, 2000, 4000)
CLASSIFIER_TRAININGS = 3
CLASSIFIER_TARGET = 0.6
SHORT_STEPS = 50

ORDERS = ("activation energy", "reconstruction")
# What is trained again, since that takes longest.
TRAINED_AGAIN = (
    ("search, plain", "activation energy"),
    ("search, refitted afterwards", "activation energy"),
    ("best heuristic, refitted", "reconstruction"),
    ("search with refitting", "reconstruction"),
)
Coefficients = dict[str, float]


def search(
    space: PruningSpace, metric: Callable[[nn.Module], float], target: float, tolerance: float, calls: int
) -> Coefficients:
    """Return the best coefficients that finite differences find, which begin with the heuristics."""
    constraint = SparsityConstraint(space, target, tolerance=tolerance)
    objective = PruningObjective(space, metric, constraint)
    study = optuna.create_study(direction="maximize", sampler=FiniteDifferenceSampler(constraint))
    for name, c in baselines(space, constraint).items():
        if name in (*HEURISTICS, "nearest"):
            study.enqueue_trial(c)
    study.optimize(objective, n_trials=calls)
    return space.coefficients(study.best_trial.params)


def space_maker(model: nn.Module, images: Tensor, ridge: float) -> Callable[[str, bool], PruningSpace]:
    """Return what gives the space of an order, with or without what is left refitted; each is made once."""
    calibration = Calibration([(images,)])
    orders: dict[str, Importance] = {
        "activation energy": ActivationEnergy(calibration),
        "reconstruction": ReconstructionError(calibration),
    }

    @functools.cache
    def space(order: str, refit: bool) -> PruningSpace:
        reconstruction = LeastSquares(calibration, ridge=ridge) if refit else None
        return PruningSpace(model, (images[:2],), importance=orders[order], reconstruction=reconstruction)

    return space


def trained_on(small: nn.Module, images: autoencoders.Images, steps: int) -> nn.Module:
    """Train in place, always in the same order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoders.train(small, images.training, steps, TUNING_RATE)
    return small


def of_autoencoder(rows: Rows, images: autoencoders.Images, case: tuple[str, int, float], quick: bool) -> None:
    """Compare searches that judge what is cut with those that judge what is refitted, on one network."""
    network, seed, target = case
    key = {"part": "search", "network": network, "seed": seed, "target": target}
    if (*key.values(), "search with refitting", "reconstruction") in rows:
        return
    model = autoencoders.trained(network, seed, images)
    tolerance, calls = (0.03, 12) if quick else (0.005, CALLS)

    def metric(network: nn.Module) -> float:
        return autoencoders.psnr(network, images.validation)

    def keep(method: str, order: str, space: PruningSpace, c: Coefficients) -> None:
        small = space.prune(c)
        row: Row = {"sparsity": space.sparsity(c), "validation": metric(small), "calls": calls}
        row["test"] = autoencoders.psnr(small, images.test)
        if (method, order) in TRAINED_AGAIN:
            steps = 20 if quick else TUNING_STEPS
            row["test_tuned"] = autoencoders.psnr(trained_on(small, images, steps), images.test)
        rows.keep({**key, "method": method, "order": order, **row})

    whole = {"sparsity": 0.0, "validation": metric(model), "test": autoencoders.psnr(model, images.test), "calls": 0}
    rows.keep({**key, "method": "dense", "order": "", **whole})
    space = space_maker(model, images.calibration, RIDGE[network])
    for order in ORDERS[1:] if quick else ORDERS:
        plain, refitted = space(order, False), space(order, True)
        uniform = baselines(plain, SparsityConstraint(plain, target, tolerance=tolerance))["uniform"]
        found = search(plain, metric, target, tolerance, calls)
        keep("uniform", order, plain, uniform)
        keep("uniform, refitted", order, refitted, uniform)
        keep("best heuristic, refitted", order, refitted, best_heuristic(refitted, metric, target, tolerance))
        keep("search, plain", order, plain, found)
        keep("search, refitted afterwards", order, refitted, found)
        keep("search with refitting", order, refitted, search(refitted, metric, target, tolerance, calls))


def best_heuristic(
    space: PruningSpace, metric: Callable[[nn.Module], float], target: float, tolerance: float
) -> Coefficients:
    """Return the heuristic whose network has the highest metric."""
    found = baselines(space, SparsityConstraint(space, target, tolerance=tolerance))
    return max((found[name] for name in HEURISTICS), key=lambda c: metric(space.prune(c)))


def of_autoencoders(rows: Rows, images: autoencoders.Images, quick: bool) -> None:
    """Compare all networks."""
    cases = [(n, s, t) for n, count in TRAININGS.items() for s in range(count) for t in (0.5, 0.7)]
    for case in tqdm([("fully connected", 0, 0.5)] if quick else cases, desc="in the search"):
        of_autoencoder(rows, images, case, quick)


def of_settings(rows: Rows, images: autoencoders.Images, quick: bool) -> None:
    """Refit the same networks, those that a search with refitting found, with other ridges and numbers of samples."""
    if quick:
        return
    for network, target in tqdm(list(itertools.product(TRAININGS, (0.5, 0.7))), desc="ridge and samples"):
        model = autoencoders.trained(network, 0, images)
        key = {"part": "settings", "network": network, "seed": 0, "target": target}
        pool = torch.cat([images.calibration, images.training[-3000:]])
        cases = [(1000, ridge) for ridge in RIDGES] + [(n, RIDGE[network]) for n in SAMPLES]
        names = {f"ridge {ridge:.0e}, {count} samples": (count, ridge) for count, ridge in cases}
        if all((*key.values(), name, "reconstruction") in rows for name in names):
            continue
        space = refitting(model, images.calibration, RIDGE[network])
        found = search(space, lambda small: autoencoders.psnr(small, images.validation), target, 0.005, 100)
        for name, (count, ridge) in names.items():
            calibration = Calibration([(pool[:count],)])
            other = PruningSpace(
                model,
                (pool[:2],),
                importance=ActivationEnergy(calibration),
                reconstruction=LeastSquares(calibration, ridge=ridge),
            ).with_order(space.order)
            small = other.prune(found)
            values = {"test": autoencoders.psnr(small, images.test), "sparsity": other.sparsity(found)}
            rows.keep({**key, "method": name, "order": "reconstruction", **values})


def of_classifier(rows: Rows, data: classifiers.Digits, seed: int, quick: bool) -> None:
    """Compare what batch norm's statistics are worth, with and without refitted weights, on one network."""
    key = {"part": "batch norm", "network": f"{data.name} classifier", "seed": seed, "target": CLASSIFIER_TARGET}
    if (*key.values(), "search with refitting", "reconstruction") in rows:
        return
    model = classifiers.trained(seed, data)
    tolerance, calls = 0.03 if quick else 0.005, CLASSIFIER_CALLS[data.name]
    recalibrated = functools.partial(classifiers.with_statistics_of, images=data.calibration)

    def metric(small: nn.Module) -> float:
        # What tells candidates apart that are right equally often: how sure they are.
        with torch.no_grad():
            loss = nn.functional.cross_entropy(small(data.validation.images), data.validation.classes).item()
        return classifiers.accuracy(small, data.validation) - 1e-3 * loss

    def keep(method: str, order: str, small: nn.Module, sparsity: float) -> None:
        values = {name: classifiers.accuracy(small, getattr(data, name)) for name in ("validation", "test")}
        rows.keep({**key, "method": method, "order": order, "sparsity": sparsity, **values, "calls": calls})

    keep("dense", "", model, 0.0)
    space = space_maker(model, data.calibration, 1e-3)
    for order in ORDERS[1:] if quick else ORDERS:
        plain, refitted = space(order, False), space(order, True)
        uniform = baselines(plain, SparsityConstraint(plain, CLASSIFIER_TARGET, tolerance=tolerance))["uniform"]
        size = plain.sparsity(uniform)
        keep("uniform", order, plain.prune(uniform), size)
        keep("uniform, statistics", order, recalibrated(plain.prune(uniform)), size)
        keep("uniform, refitted", order, refitted.prune(uniform), size)
        found = search(plain, metric, CLASSIFIER_TARGET, tolerance, calls)
        keep("search, plain", order, plain.prune(found), plain.sparsity(found))
        keep("search, statistics afterwards", order, recalibrated(plain.prune(found)), plain.sparsity(found))
        found = search(plain, lambda small: metric(recalibrated(small)), CLASSIFIER_TARGET, tolerance, calls)
        keep("search with statistics", order, recalibrated(plain.prune(found)), plain.sparsity(found))
        found = search(refitted, metric, CLASSIFIER_TARGET, tolerance, calls)
        keep("search with refitting", order, refitted.prune(found), plain.sparsity(found))


def of_classifiers(rows: Rows, data: classifiers.Digits, quick: bool) -> None:
    """Compare all trainings."""
    for seed in tqdm(range(1 if quick else CLASSIFIER_TRAININGS), desc=f"classifiers of {data.name}"):
        of_classifier(rows, data, seed, quick)


def of_training(rows: Rows, images: autoencoders.Images, quick: bool) -> None:
    """Search by what a candidate reaches after a short training: is that what trains best?"""
    network = "fully connected" if quick else "fully convolutional"
    model = autoencoders.trained(network, 0, images)
    key = {"part": "training", "network": network, "seed": 0, "target": 0.5}
    steps, calls, tolerance = (2, 8, 0.03) if quick else (SHORT_STEPS, 60, 0.005)
    made = space_maker(model, images.calibration, RIDGE[network])
    metrics: dict[str, Callable[[nn.Module], float]] = {
        "before training": lambda small: autoencoders.psnr(small, images.validation),
        f"after {steps} steps": lambda small: autoencoders.psnr(trained_on(small, images, steps), images.validation),
    }
    for (name, metric), refit in itertools.product(metrics.items(), (False, True)):
        method, order = f"metric {name}{', refitted' if refit else ''}", ORDERS[refit]
        if (*key.values(), method, order) not in rows:
            space = made(order, refit)
            c = search(space, metric, 0.5, tolerance, calls)
            small = space.prune(c)
            values = {"sparsity": space.sparsity(c), "test": autoencoders.psnr(small, images.test), "calls": calls}
            values["test_tuned"] = autoencoders.psnr(
                trained_on(small, images, 20 if quick else TUNING_STEPS), images.test
            )
            rows.keep({**key, "method": method, "order": order, **values})


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    images = autoencoders.digits() if quick else autoencoders.mnist()
    of_autoencoders(rows, images, quick)
    for data in [classifiers.few()] if quick else [classifiers.digits(), classifiers.mnist()]:
        of_classifiers(rows, data, quick)
    of_transformers(rows, quick)
    of_training(rows, images, quick)
    of_settings(rows, images, quick)


def table(rows: Rows, part: str, columns: Sequence[str], digits: int) -> list[str]:
    """Return a table for each network of a part: means over the trainings, and by how much the last method is ahead."""
    lines: list[str] = []
    mine = rows.where(part=part)
    for network in dict.fromkeys(row["network"] for row in mine):
        targets = list(dict.fromkeys(row["target"] for row in mine if row["network"] == network))
        head = [
            f"{target:.0%}: {column.replace('test_tuned', 'trained again')}" for target in targets for column in columns
        ]
        found = rows.where(part=part, network=network)
        trainings = len({row["seed"] for row in found})
        lines += [
            f"| {network}, {trainings} trainings | order | {' | '.join(head)} |",
            "| --- | --- |" + " --- |" * len(head),
        ]
        methods = list(dict.fromkeys((row["method"], row["order"]) for row in found))
        cells = {
            (*method, *place): {
                row["seed"]: row[place[1]]
                for row in found
                if (row["method"], row["order"]) == method and row["target"] == place[0] and row[place[1]] != ""
            }
            for method in methods
            for place in itertools.product(targets, columns)
        }
        places = list(itertools.product(targets, columns))
        for method in methods:
            means = [list(cells[(*method, *place)].values()) for place in places]
            shown = [f"{np.mean(values):.{digits}f}" if values else "" for values in means]
            lines.append(f"| {' | '.join([*method, *shown])} |")
        for method in [*methods[:-1]] if trainings > 1 else []:
            gains = []
            for place in places:
                ours, theirs = cells[(*methods[-1], *place)], cells[(*method, *place)]
                gains.append(interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs], digits))
            lines.append(f"| ahead of {' | '.join([*method, *gains])} |")
        lines.append("")
    return lines


def tables(rows: Rows) -> list[str]:
    """Return all tables in Markdown."""
    return [
        *table(rows, "search", ("test", "test_tuned"), 2),
        *table(rows, "batch norm", ("validation", "test"), 3),
        *table(rows, "transformer", ("validation", "test"), 3),
        *table(rows, "training", ("test", "test_tuned"), 2),
        *table(rows, "settings", ("test",), 2),
    ]


if __name__ == "__main__":
    command(measure, tables, columns=COLUMNS, keys=len(KEYS), file=FILE, quick="scikit-learn's digits, few calls")
