"""What evaluating a candidate costs beside Torch-Pruning and beside the smaller network's forward pass alone."""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
import torch_pruning
from torch import Tensor, nn
from torchvision.models import resnet18

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, ProjectedSampler, SLSQPSampler
from optuna_softprune.testing import randomise
from studies.rows import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Coefficients = dict[str, float]


def fully_connected() -> nn.Sequential:
    """Return an autoencoder of 784 pixels with five groups."""
    widths = (784, 512, 256, 32, 256, 512, 784)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1], nn.Sigmoid()).eval()


def convolutional() -> nn.Sequential:
    """Return an autoencoder of 28 x 28 pixels with flatten and unflatten, and eight groups."""
    encoder = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    encoder += [nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU()]
    decoder = [nn.Linear(128, 32 * 49), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)), nn.ConvTranspose2d(32, 32, 2, 2)]
    decoder += [nn.ReLU(), nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()]
    code = [nn.Linear(128, 32), nn.Linear(32, 128), nn.ReLU()]
    return nn.Sequential(*encoder, *code, *decoder).eval()


def grid(space: PruningSpace, count: int) -> Iterator[Coefficients]:
    """Yield neighbouring points of the grid of five levels, in the order in which they are proposed."""
    levels = [np.linspace(0, high, 5) for high in space.lattice.highest]
    start = 5 ** len(levels) * 2 // 5
    for point in itertools.islice(itertools.product(*levels), start, start + count):
        yield space.snap(space.named(np.array(point)))


def gradients(space: PruningSpace, count: int) -> Iterator[Coefficients]:
    """Yield random candidates, each before the probes of its gradient: central differences of 2 %, a unit at least."""
    random = np.random.default_rng(0)
    step = np.maximum(0.02, 1.01 / space.lattice.sizes)
    for _ in range(count):
        base = space.lattice.highest * random.uniform(0.3, 0.7, len(step))
        yield space.snap(space.named(base))
        for probe in itertools.chain(*zip(base + np.diag(step), base - np.diag(step), strict=True)):
            yield space.snap(space.named(probe))


def alone(space: PruningSpace, count: int) -> Iterator[Coefficients]:
    """Yield random candidates."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield space.snap(space.named(space.lattice.highest * random.random(len(space.groups))))


def by_torch_pruning(model: nn.Module, space: PruningSpace, c: Coefficients, example: Tensor) -> nn.Module:
    """Return a deep copy without the units that `c` removes, by Torch-Pruning's dependency graph."""
    network = copy.deepcopy(model)
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=example)
    for group, order, kept in zip(space.groups, space.order, space.kept_units(c), strict=True):
        module = network.get_submodule(group.name)
        units = group.slices[0].indices[order[: group.size - kept]].flatten().tolist()
        if units:
            prune = graph.get_pruner_of_module(module).prune_out_channels
            graph.get_pruning_group(module, prune, idxs=sorted(units)).prune()
    return network.eval()


def milliseconds(calls: Iterable[Callable[[], object]]) -> float:
    """Return the mean milliseconds of calls, one behind the other."""
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.fmean(seconds) * 1e3


def measure(model: nn.Module, x: Tensor, walk: str, candidates: list[Coefficients], every: int) -> dict[str, float]:
    """Return mean milliseconds a candidate; (a), (b) and pruning are measured on each `every`th.

    Of gradients only the probes count, not the candidate that they surround.
    """
    space = PruningSpace(model, (x[:2],))
    evaluator = space.evaluator(2**30, print)
    outputs: list[Tensor] = []
    round_trip = 2 * len(space.groups) + 1 if walk == "gradients" else 0
    some = [c for i, c in enumerate(candidates) if not round_trip or i % round_trip][::every]
    with torch.no_grad():
        evaluator.module(space.candidate(dict.fromkeys(space.distributions, 0.0)))(x)
        times = [milliseconds([lambda c=c: evaluator.module(space.candidate(c))(x)]) for c in candidates]  # type: ignore[misc]
        shared = statistics.fmean(t for i, t in enumerate(times) if not round_trip or i % round_trip)
        memory = evaluator.memory
        found = {"looked_up": memory.hits / (memory.hits + memory.misses), "peak_mib": memory.peak / 2**20}
        prune = milliseconds(lambda c=c: space.prune(c) for c in some)  # type: ignore[misc]
        networks = [space.prune(c).eval() for c in some]
        forward = milliseconds(lambda n=n: outputs.append(n(x)) for n in networks)  # type: ignore[misc]
        difference = max(
            ((evaluator.module(space.candidate(c))(x) - y).abs().max() / y.abs().max()).item()
            for c, y in zip(some, outputs, strict=True)
        )
        try:
            peer = milliseconds(lambda c=c: by_torch_pruning(model, space, c, x[:2])(x) for c in some)  # type: ignore[misc]
        except RuntimeError:  # the sizes in `nn.Unflatten` stay as they were
            peer = math.nan
    found |= {"a_ms": peer, "b_ms": forward, "prune_ms": prune, "ms": shared}
    ratios = {"to_a": shared / peer, "to_b": shared / forward, "to_prune_and_b": shared / (prune + forward)}
    return {**found, **ratios, "difference": difference}


def search_seconds(model: nn.Module, x: Tensor, name: str, trials: int, cache_bytes: int) -> float:
    """Return how long a search with a sampler takes at 50 % sparsity, in memory."""
    space = PruningSpace(model, (x[:2],))
    constraint = SparsityConstraint(space, 0.5)
    objective = PruningObjective(
        space, lambda network: -(network(x) - x).square().mean().item(), constraint, cache_bytes=cache_bytes
    )
    samplers: dict[str, Any] = {
        "grid": lambda: FeasibleGridSampler(space, constraint, levels=5),
        "finite differences": lambda: FiniteDifferenceSampler(constraint),
        "SLSQP": lambda: SLSQPSampler(constraint),
        "TPE": lambda: ProjectedSampler(optuna.samplers.TPESampler(seed=0), constraint),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[name]())
    start = time.perf_counter()
    with torch.no_grad():
        study.optimize(objective, n_trials=trials)
    return time.perf_counter() - start


def printed(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row and print it as a line of a table."""
    shown = {key: _short(value) for key, value in row.items()}
    if not rows:
        print("\n| " + " | ".join(shown) + " |\n|" + " --- |" * len(shown))
    print("| " + " | ".join(map(str, shown.values())) + " |", flush=True)
    rows.append(shown)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return "-" if math.isnan(value) else float(f"{value:.3g}")
    return value


def main() -> None:
    """Measure each walk three times and report medians; with `--quick` small cases, once, nothing written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small cases, once")
    quick = parser.parse_args().quick
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", module="torch_pruning")
    torch.manual_seed(0)
    count = 20 if quick else 1000
    flat, square, small = torch.rand(count, 784), torch.rand(count, 1, 28, 28), torch.rand(64, 3, 32, 32)
    networks: dict[str, tuple[nn.Module, Tensor]] = {
        "fully connected autoencoder": (randomise(fully_connected()), flat),
        "convolutional autoencoder": (randomise(convolutional()), square),
        "resnet18": (randomise(resnet18().eval()), small),
    }
    cases: list[tuple[str, str, Any, int, int]] = [
        ("grid", "fully connected autoencoder", grid, 500, 7),
        *(("gradients", name, gradients, 3, 3) for name in networks),
        *(("alone", name, alone, 20, 1) for name in networks),
    ]
    rows: list[dict[str, Any]] = []
    for walk, name, walked, number, every in cases[:2] if quick else cases:
        space = PruningSpace(networks[name][0], (networks[name][1][:2],))
        candidates = list(walked(space, min(number, 20) if quick else number))
        runs = [measure(*networks[name], walk, candidates, every) for _ in range(1 if quick else 3)]
        printed(
            rows,
            {"walk": walk, "network": name, **{key: statistics.median(run[key] for run in runs) for key in runs[0]}},
        )
    searches: list[dict[str, Any]] = []
    for name in list(networks)[: 1 if quick else 2]:
        for sampler in ("grid", "SLSQP", "TPE", "finite differences")[: 1 if quick else None]:
            trials = 20 if quick else 200
            whole, shared = (search_seconds(*networks[name], sampler, trials, budget) for budget in (0, 2**30))
            printed(
                searches,
                {
                    "network": name,
                    "sampler": sampler,
                    "trials": trials,
                    "whole_s": whole,
                    "shared_s": shared,
                    "ratio": shared / whole,
                },
            )
    if not quick:
        write(rows, Path(__file__).parent / "results.csv")
        write(searches, Path(__file__).parent / "searches.csv")


if __name__ == "__main__":
    main()
