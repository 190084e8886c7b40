"""What a search and a candidate cost: shared and whole, refitted and not, beside Torch-Pruning and the forward pass."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import optuna
import torch
import torch_pruning
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    SoftPruneWarning,
    SparsityConstraint,
)
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, ProjectedSampler
from optuna_softprune.testing import randomise
from studies.autoencoders import autoencoder
from studies.command import run
from studies.rows import Rows, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from optuna_softprune.evaluation import Evaluator

WALKS = ["walk", "network", "looked_up", "peak_mib", "a_ms", "b_ms", "prune_ms", "ms", "refitted_ms"]
WALKS += ["to_a", "to_b", "refitted_to_plain", "difference"]
SEARCHES = ["network", "sampler", "trials", "peer_s", "whole_s", "shared_s", "refitted_s"]
SEARCHES += ["shared_to_peer", "shared_to_whole", "refitted_to_shared"]
CALIBRATIONS = ["network", "forward_ms", "calibration_ms", "ratio"]
Coefficients = dict[str, float]
# Without and with reconstruction.
Spaces = tuple[PruningSpace, PruningSpace]


def fully_connected() -> nn.Sequential:
    """Return an autoencoder of 784 pixels with five groups."""
    widths = (784, 512, 256, 32, 256, 512, 784)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1], nn.Sigmoid()).eval()


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
    """Return the mean milliseconds of processor time of calls, one behind the other."""
    seconds = []
    for call in calls:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return statistics.fmean(seconds) * 1e3


def walked(
    spaces: Spaces, x: Tensor, candidates: list[Coefficients], counted: Callable[[int], bool]
) -> tuple[list[float], list[Evaluator]]:
    """Return the mean milliseconds of the candidates that count in each space, one after the other for each candidate.

    Values are shared by the evaluators that are returned too.
    """
    evaluators = [space.evaluator(2**30, print) for space in spaces]
    dense = dict.fromkeys(spaces[0].distributions, 0.0)
    times: list[list[float]] = []
    with torch.no_grad():
        for c in [dense, *candidates]:
            calls = [
                functools.partial(lambda space, each, c: each.module(space.candidate(c))(x), *pair, c)
                for pair in zip(spaces, evaluators, strict=True)
            ]
            times.append([milliseconds([call]) for call in calls])
    means = np.mean([pair for i, pair in enumerate(times[1:]) if counted(i)], 0)
    return means.tolist(), evaluators


def walk_of(
    spaces: Spaces, model: nn.Module, x: Tensor, walk: str, candidates: list[Coefficients], every: int
) -> dict[str, float]:
    """Return mean milliseconds a candidate; (a), (b) and pruning are measured on each `every`th.

    Of gradients only the probes count, not the candidate that they surround. The second space is refitted.
    """
    space, refitted = spaces
    outputs: list[Tensor] = []
    round_trip = 2 * len(space.groups) + 1 if walk == "gradients" else 0

    def counted(i: int) -> bool:
        return not round_trip or bool(i % round_trip)

    some = [c for i, c in enumerate(candidates) if counted(i)][::every]
    (shared, with_refit), (evaluator, refitting) = walked(spaces, x, candidates, counted)
    with torch.no_grad():
        memory = evaluator.memory
        found = {"looked_up": memory.hits / (memory.hits + memory.misses), "peak_mib": memory.peak / 2**20}
        prune = milliseconds(lambda c=c: space.prune(c) for c in some)  # type: ignore[misc]
        networks = [space.prune(c).eval() for c in some]
        forward = milliseconds(lambda n=n: outputs.append(n(x)) for n in networks)  # type: ignore[misc]
        difference = max(
            _difference(each.module(of.candidate(c))(x), of.prune(c).eval()(x))
            for of, each in ((space, evaluator), (refitted, refitting))
            for c in some[:5]
        )
        try:
            peer = milliseconds(lambda c=c: by_torch_pruning(model, space, c, x[:2])(x) for c in some)  # type: ignore[misc]
        except RuntimeError:  # the sizes in `nn.Unflatten` stay as they were
            peer = math.nan
    found |= {"a_ms": peer, "b_ms": forward, "prune_ms": prune, "ms": shared, "refitted_ms": with_refit}
    ratios = {"to_a": shared / peer, "to_b": shared / forward, "refitted_to_plain": with_refit / shared}
    return {**found, **ratios, "difference": difference}


def _difference(y: Tensor, of_removed: Tensor) -> float:
    """Return the largest difference of outputs, relative to the largest output."""
    return ((y - of_removed).abs().max() / of_removed.abs().max()).item()


def search(space: PruningSpace, x: Tensor, name: str, trials: int | None, cache_bytes: int) -> tuple[float, list[Any]]:
    """Return the processor seconds of a search with a sampler at 50 % sparsity, in memory, and its trials."""
    constraint = SparsityConstraint(space, 0.5)
    objective = PruningObjective(
        space, lambda network: -(network(x) - x).square().mean().item(), constraint, cache_bytes=cache_bytes
    )
    samplers: dict[str, Any] = {
        "grid": lambda: FeasibleGridSampler(space, constraint, levels=5),
        "finite differences": lambda: FiniteDifferenceSampler(constraint),
        "TPE": lambda: ProjectedSampler(optuna.samplers.TPESampler(seed=0), constraint),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[name]())
    start = time.process_time()
    with torch.no_grad():
        study.optimize(objective, n_trials=trials)
    return time.process_time() - start, study.trials


def searched(spaces: Spaces, model: nn.Module, x: Tensor, name: str, trials: int) -> dict[str, Any]:
    """Return what one search takes: whole, shared, refitted, and by Torch-Pruning on copies (of each eighth trial)."""
    space, refitted = spaces
    count = None if name == "grid" and trials >= 200 else trials  # a grid ends by itself
    whole, _ = search(space, x, name, count, 0)
    shared, made = search(space, x, name, count, 2**30)
    with_refit, _ = search(refitted, x, name, count, 2**30)

    def by_peer(trial: optuna.trial.FrozenTrial) -> float:
        small = by_torch_pruning(model, space, space.coefficients(trial.params), x[:2])
        return float((small(x) - x).square().mean())

    try:
        with torch.no_grad():
            peer = milliseconds(functools.partial(by_peer, trial) for trial in made[::8]) * len(made) / 1e3
    except RuntimeError:  # the sizes in `nn.Unflatten` stay as they were
        peer = math.nan
    seconds = {"peer_s": peer, "whole_s": whole, "shared_s": shared, "refitted_s": with_refit}
    ratios = {"shared_to_peer": shared / peer, "shared_to_whole": shared / whole}
    return {"trials": len(made), **seconds, **ratios, "refitted_to_shared": with_refit / shared}


def spaces_of(model: nn.Module, x: Tensor) -> Spaces:
    """Return the search space of a network without and with reconstruction."""
    reconstruction = LeastSquares(Calibration([(x,)]))
    return PruningSpace(model, (x[:2],)), PruningSpace(model, (x[:2],), reconstruction=reconstruction)


def calibrated(model: nn.Module, x: Tensor, repeats: int) -> dict[str, float]:
    """Return milliseconds of a forward pass on all inputs, in batches, and of calibrating right behind it; medians."""
    batches = [(part,) for part in torch.split(x, 250)]
    groups = PruningSpace(model, (x[:2],)).groups
    pairs: list[tuple[float, float]] = []
    with torch.no_grad():
        for each in [Calibration(batches) for _ in range(repeats + 1)]:
            calls = [lambda: [model(*batch) for batch in batches], lambda each=each: each.moments(model, groups)]  # type: ignore[misc]
            pairs.append((milliseconds(calls[:1]), milliseconds(calls[1:])))
    forward, found = zip(*pairs[1:], strict=True)  # the first warms up
    ratio = statistics.median(b / a for a, b in pairs[1:])
    return {"forward_ms": statistics.median(forward), "calibration_ms": statistics.median(found), "ratio": ratio}


# Name of a walk -> its candidates, how many (of gradients how many of these), and each how many-th is looked at alone.
WALKING: dict[str, tuple[Callable[[PruningSpace, int], Iterator[Coefficients]], int, int]] = {
    "alone": (alone, 10, 1),
    "gradients": (gradients, 2, 5),
    "grid": (grid, 100, 7),
}


class Speeds(NamedTuple):
    """What the study keeps."""

    walks: Rows
    searches: Rows
    calibrations: Rows


def speeds_in(folder: Path) -> Speeds:
    """Return what a folder has of the study."""
    return Speeds(
        walks=Rows(WALKS, 2, folder / "results.csv"),
        searches=Rows(SEARCHES, 2, folder / "searches.csv"),
        calibrations=Rows(CALIBRATIONS, 1, folder / "calibrations.csv"),
    )


def shortened(found: dict[str, Any]) -> dict[str, Any]:
    """Return floats with three digits; not a number is a dash."""
    return {
        name: value if not isinstance(value, float) else "-" if math.isnan(value) else float(f"{value:.3g}")
        for name, value in found.items()
    }


def measure(speeds: Speeds, quick: bool) -> None:
    """Measure what is missing, each walk three times for its medians; or small cases, once."""
    warnings.filterwarnings("ignore", module="torch_pruning")
    warnings.filterwarnings("ignore", category=SoftPruneWarning)
    torch.manual_seed(0)
    count = 20 if quick else 1000
    flat, square, colour = torch.rand(count, 784), torch.rand(count, 1, 28, 28), torch.rand(count, 3, 32, 32)
    networks: dict[str, tuple[nn.Module, Tensor]] = {
        "fully connected autoencoder": (randomise(fully_connected()), flat),
        "convolutional autoencoder": (randomise(autoencoder("convolutional", 28)), square),
        "fully convolutional autoencoder": (randomise(autoencoder("fully convolutional", 28)), square),
        "resnet18": (randomise(torchvision.models.resnet18(num_classes=10)), colour),
    }
    made = functools.cache(lambda name: spaces_of(*networks[name]))
    first, _, third, last = networks
    names = [first] if quick else list(networks)
    for name in tqdm(names, desc="calibrations"):
        if (name,) not in speeds.calibrations:
            found = calibrated(*networks[name], 1 if quick else 3 if name == last else 9)
            speeds.calibrations.keep({"network": name, **shortened(found)})
    for name, walk in tqdm(list(itertools.product(names, WALKING)), desc="walks"):
        if (walk, name) not in speeds.walks:
            model, x = networks[name]
            steps, number, every = WALKING[walk]
            number, repeats = (3, 1) if quick else (max(number // 5, 1), 1) if name == last else (number, 3)
            candidates = list(steps(made(name)[0], number))
            times = [walk_of(made(name), model, x, walk, candidates, every) for _ in range(repeats)]
            medians = {key: statistics.median(each[key] for each in times) for key in times[0]}
            speeds.walks.keep({"walk": walk, "network": name, **shortened(medians)})
    searches = [(first, "grid"), (first, "finite differences"), (first, "TPE"), (third, "grid")]
    for name, sampler in tqdm(searches, desc="searches"):
        if (name, sampler) not in speeds.searches:
            row = searched(made(name), *networks[name], sampler, 10 if quick else 200)
            speeds.searches.keep({"network": name, "sampler": sampler, **shortened(row)})


def tables(speeds: Speeds) -> list[str]:
    """Return all rows."""
    return [line for rows in speeds for line in [*markdown(rows), ""]]


if __name__ == "__main__":
    run(measure, tables, speeds_in, folder=Path(__file__).parent, quick="small cases, once")
