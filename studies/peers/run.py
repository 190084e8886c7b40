"""Finite differences beside Torch-Pruning and NVIDIA ModelOpt's FastNAS, on the autoencoders of MNIST."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
import torch_pruning
from torch import nn
from tqdm import tqdm

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines
from studies.autoencoders import Images, digits, mnist, psnr, train, trained
from studies.command import command
from studies.mnist_autoencoder.methods import CALLS, REFITTED, RIDGE, orders, refitting
from studies.mnist_autoencoder.tables import TRAININGS, interval
from studies.peers.refitted import with_units_of
from studies.peers.sizes import bisected, parameters, runs
from studies.searching import HEURISTICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from studies.rows import Rows

HERE = Path(__file__).parent
TARGETS = (0.5, 0.7)
COLUMNS = ["network", "seed", "target", "method"]
COLUMNS += ["sparsity", "psnr_validation", "psnr", "psnr_tuned", "calls", "seconds", "note"]
SHOWN = (("sparsity", 3), ("psnr", 2), ("psnr_tuned", 2))
TUNING_STEPS, TUNING_RATE = 200, 1e-3
OURS = "finite differences"
REFIT = ("best heuristic, refitted", REFITTED)
FASTNAS = {"FastNAS, divisor 1": 1, "FastNAS, divisor 32 (default)": 32}
TORCH_PRUNING = {
    f"Torch-Pruning, {name}, {'global' if everywhere else 'uniform'}": (name, everywhere)
    for name in ("L2", "Taylor")
    for everywhere in (False, True)
}
# A method returns the smaller network and how often it called the metric.
Pruned = tuple[nn.Module, int]


def by_torch_pruning(model: nn.Module, images: Images, target: float, name: str, *, everywhere: bool) -> Pruned:
    """Prune with Torch-Pruning at a ratio of channels that gives the target's number of parameters."""

    def pruned_at(ratio: float) -> nn.Module:
        small = copy.deepcopy(model)
        if name == "Taylor":
            nn.functional.mse_loss(small(images.calibration), images.calibration).backward()  # type: ignore[no-untyped-call]
            importance = torch_pruning.importance.TaylorImportance()
        else:
            importance = torch_pruning.importance.MagnitudeImportance(p=2)
        last = [m for m in small.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))][-1]
        torch_pruning.pruner.BasePruner(
            small, (images.calibration[:2],), importance, pruning_ratio=ratio, global_pruning=everywhere,
            ignored_layers=[last],
        ).step()  # fmt: skip
        small.zero_grad()
        return small

    return bisected(pruned_at, lambda small: runs(small, images.calibration[:2]), parameters(model), target), 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep tables and progress bars of others off the screen."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def by_fastnas(model: nn.Module, images: Images, target: float, divisor: int) -> Pruned:
    """Prune with FastNAS: PSNR of the validation images is its score, the number of parameters its bound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.prune as modelopt_prune  # takes seconds
    calls = 0

    def score(network: nn.Module) -> float:
        nonlocal calls
        calls += 1
        return psnr(network.eval(), images.validation)

    linear = {"features_ratio": tuple(np.arange(1, 21) / 20), "feature_divisor": divisor}
    channels = {"channels_ratio": tuple(np.arange(1, 21) / 20), "kernel_size": (), "channel_divisor": divisor}
    choices = {"nn.Linear": linear, "nn.Conv2d": channels, "nn.ConvTranspose2d": channels}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        small, _ = modelopt_prune.prune(
            copy.deepcopy(model),
            [("fastnas", choices)],
            {"params": f"{100 * (1 - target):g}%"},
            images.calibration[:2],
            config={"score_func": score, "checkpoint": f"{folder}/map"},
        )
    return small.eval(), calls


def copied(pruned: Pruned) -> Pruned:
    """Return a network that can be trained while the other stays as it is."""
    return copy.deepcopy(pruned[0]), pruned[1]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The order of units in which the best heuristic is best on the validation images; what it took to find it.

    Attributes:
        space: With this order.
        constraint: The target.
        starts: The heuristics, and the feasible network nearest to the dense one.
        best: The name of the best heuristic.
        calls: How often the metric was called.
    """

    space: PruningSpace
    constraint: SparsityConstraint
    starts: dict[str, dict[str, float]]
    best: str
    calls: int


def chosen(model: nn.Module, images: Images, target: float, tolerance: float) -> Chosen:
    """Try all heuristics with all orders of units."""
    best, found, calls = -np.inf, None, 0
    for importance in orders(images.calibration).values():
        space = PruningSpace(model, (images.calibration[:2],), importance=importance)
        constraint = SparsityConstraint(space, target, tolerance=tolerance)
        starts = {name: c for name, c in baselines(space, constraint).items() if name in (*HEURISTICS, "nearest")}
        for name in HEURISTICS:
            value, calls = psnr(space.prune(starts[name]), images.validation), calls + 1
            if value > best:
                best, found = value, (space, constraint, starts, name)
    assert found is not None
    return Chosen(*found, calls)


def chosen_refitted(space: PruningSpace, images: Images, target: float, tolerance: float) -> Chosen:
    """Try all heuristics, each judged by its refitted network."""
    constraint = SparsityConstraint(space, target, tolerance=tolerance)
    starts = {name: c for name, c in baselines(space, constraint).items() if name in (*HEURISTICS, "nearest")}
    best = max(HEURISTICS, key=lambda name: psnr(space.prune(starts[name]), images.validation))
    return Chosen(space, constraint, starts, best, len(HEURISTICS))


def by_us(order: Chosen, images: Images, calls: int) -> Pruned:
    """Search with finite differences; the calls that chose the order count."""
    objective = PruningObjective(order.space, lambda network: psnr(network, images.validation), order.constraint)
    study = optuna.create_study(direction="maximize", sampler=FiniteDifferenceSampler(order.constraint))
    for c in order.starts.values():
        study.enqueue_trial(c)
    study.optimize(objective, n_trials=calls - order.calls)
    return objective.best_model(study), calls


def measure(model: nn.Module, images: Images, prune: Callable[[nn.Module], Pruned], *, quick: bool) -> dict[str, Any]:
    """Return the values of a pruned network, before and after a short training; what fails leaves a note."""
    start = time.perf_counter()
    try:
        small, calls = prune(model)
        found = {"psnr_validation": psnr(small, images.validation), "psnr": psnr(small, images.test)}
    except Exception as error:
        return {"note": f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"}
    found |= {"sparsity": 1 - parameters(small) / parameters(model), "calls": calls}
    found["seconds"] = time.perf_counter() - start
    torch.manual_seed(0)
    train(small, images.training, 20 if quick else TUNING_STEPS, TUNING_RATE)
    return {**found, "psnr_tuned": psnr(small, images.test)}


def run(rows: Rows, images: Images, *, quick: bool) -> None:
    """Measure what is missing."""
    cases = [
        (network, seed, target)
        for network, count in ({"fully connected": 1} if quick else TRAININGS).items()
        for seed in range(count)
        for target in (TARGETS[:1] if quick else TARGETS)
    ]
    for network, seed, target in tqdm(cases):
        compare(rows, network, seed, target, images, quick=quick)


def compare(rows: Rows, network: str, seed: int, target: float, images: Images, *, quick: bool) -> None:
    """Measure what is missing of one trained network at one target."""
    calls = 30 if quick else CALLS[network]
    tolerance = 0.03 if quick else 0.005  # small networks have few sizes

    @functools.cache
    def model() -> nn.Module:
        return trained(network, seed, images)

    @functools.cache
    def order(at: float) -> Chosen:
        return chosen(model(), images, at, tolerance)

    def keep(method: str, prune: Callable[[nn.Module], Pruned]) -> None:
        if (network, seed, target, method) not in rows:
            key = {"network": network, "seed": seed, "target": target, "method": method}
            rows.keep({**key, **measure(model(), images, prune, quick=quick)})

    @functools.cache
    def refitted() -> Chosen:
        space = refitting(model(), images.calibration, RIDGE[network])
        return chosen_refitted(space, images, target, tolerance)

    @functools.cache
    def of_peer(method: str) -> Pruned:
        if method in FASTNAS:
            return by_fastnas(model(), images, target, FASTNAS[method])
        name, everywhere = TORCH_PRUNING[method]
        return by_torch_pruning(model(), images, target, name, everywhere=everywhere)

    def refitted_peer(method: str) -> Pruned:
        small, calls = of_peer(method)
        return with_units_of(small, model(), refitted().space), calls

    def heuristic(of: Chosen, name: str) -> Pruned:
        return of.space.prune(of.starts[name]), of.calls

    keep("dense", lambda dense: (copy.deepcopy(dense), 0))
    for method in (*TORCH_PRUNING, *FASTNAS):
        keep(method, lambda _, method=method: copied(of_peer(method)))  # type: ignore[misc]
    keep("uniform", lambda _: heuristic(order(target), "uniform"))
    keep("best heuristic of any order", lambda _: heuristic(order(target), order(target).best))
    keep(OURS, lambda _: by_us(order(target), images, calls))
    keep("best heuristic, refitted", lambda _: heuristic(refitted(), refitted().best))
    keep(REFITTED, lambda _: by_us(refitted(), images, calls))
    fastnas = rows[(network, seed, target, next(iter(FASTNAS)))]
    if fastnas["note"] == "":
        few = fastnas["calls"]
        keep(
            f"{OURS}, as few calls as FastNAS",
            lambda _: by_us(order(target), images, max(few, order(target).calls + 8)),
        )
        keep(f"{OURS}, at the sparsity of FastNAS", lambda _: by_us(order(fastnas["sparsity"]), images, calls))
    for method in (*TORCH_PRUNING, *FASTNAS):
        keep(f"{method}, refitted", lambda _, method=method: refitted_peer(method))  # type: ignore[misc]


def summary(rows: Rows) -> list[str]:
    """Return the tables in Markdown: means over the trainings."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = rows.where(network=network)
        targets = list(dict.fromkeys(row["target"] for row in mine))
        head = [f"{target:.0%}: sparsity | PSNR in dB | trained again" for target in targets]
        lines += [f"{network.capitalize()}, {len({row['seed'] for row in mine})} trainings", ""]
        lines += [f"| method | {' | '.join(head)} | metric calls |", "| --- |" + " --- |" * (3 * len(targets) + 1)]
        for method in dict.fromkeys(row["method"] for row in rows):
            cells, found = [], rows.where(network=network, method=method)
            for target in targets:
                good = [row for row in found if row["target"] == target and row["note"] == ""]
                failed = sum(row["target"] == target for row in found) - len(good)
                means = [f"{np.mean([r[name] for r in good]):.{n}f}" if good else "" for name, n in SHOWN]
                cells += [*means[:-1], means[-1] + (f" ({failed} failed)" if failed else "")]
            calls = [row["calls"] for row in found if row["note"] == ""]
            lines.append(f"| {method} | {' | '.join(cells)} | {f'{np.mean(calls):.0f}' if calls else ''} |")
        lines.append("")
    return lines


def leads(rows: Rows) -> list[str]:
    """Return by how much our refitted search is ahead, dB: means over pairs of trainings, with 95 % intervals."""
    peers = (*TORCH_PRUNING, *FASTNAS)
    theirs = {
        "dense, nothing trained": ("psnr", ("dense",), "psnr"),
        "best heuristic, refitted, nothing trained": ("psnr", ("best heuristic, refitted",), "psnr"),
        "best peer of each training, both trained again": ("psnr_tuned", peers, "psnr_tuned"),
        "best peer of each training, the peer alone trained again": ("psnr", peers, "psnr_tuned"),
        "best refitted peer, both trained again": ("psnr_tuned", [f"{name}, refitted" for name in peers], "psnr_tuned"),
        "best heuristic, refitted, both trained again": ("psnr_tuned", ("best heuristic, refitted",), "psnr_tuned"),
    }
    lines = [f"| {REFITTED}, ahead of | {' | '.join(f'{name}, {t:.0%}' for name in TRAININGS for t in TARGETS)} |"]
    lines.append("| --- |" + " --- |" * (len(TRAININGS) * len(TARGETS)))
    for name, (ours, methods, values) in theirs.items():
        cells = []
        for network, target in itertools.product(TRAININGS, TARGETS):
            gains = []
            for row in rows.where(network=network, target=target, method=REFITTED):
                case = rows.where(network=network, target=target, seed=row["seed"], note="")
                other = [each[values] for each in case if each["method"] in methods]
                gains += [row[ours] - max(other)] if other else []
            cells.append(interval(gains))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def tables(rows: Rows) -> list[str]:
    """Return the study's tables."""
    return [*summary(rows), *leads(rows)]


def measure_all(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    run(rows, digits() if quick else mnist(), quick=quick)


if __name__ == "__main__":
    quick = "scikit-learn's digits, one training, 30 calls"
    command(measure_all, tables, columns=COLUMNS, keys=4, file=HERE / "results.csv", quick=quick)
