"""How much of all-MiniLM-L6-v2 can go while sentences of documentation keep their neighbours, with nothing trained?"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, additive_start, additive_sweep, baselines
from studies.command import command
from studies.intervals import mean
from studies.peers.refitted import with_units_of
from studies.peers.sizes import parameters
from studies.retrieval import peers
from studies.retrieval.data import PACKAGES, drawn, embeddings, rank_correlation, recall
from studies.retrieval.network import Encoder, pretrained, stand_in
from studies.searching import HEURISTICS, searched
from studies.training import WORK

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna
    from torch import Tensor, nn

    from studies.rows import Rows

FILE = Path(__file__).parent / "results.csv"
COLUMNS = ["seed", "target", "method", "sparsity", "validation", "recall", "rank_correlation", "calls", "kept"]
SEEDS, TARGETS = 3, (0.2, 0.3, 0.4)
COUNTS = {"calibration": 256, "validation": 200, "test": 500}
LEVELS, CALLS = 4, 24
OURS = "search with refitting"
Coefficients = dict[str, float]


@dataclass(frozen=True, slots=True)
class Part:
    """Inputs of the network, and the embeddings (N, wide) that the dense one makes of them."""

    inputs: tuple[Tensor, Tensor]
    dense: Tensor


class Case:
    """The dense network with the data of a seed.

    Args:
        encoder: The network.
        seed: Of the sentences that calibrate and validate; the test sentences are the same for all.
        quick: Whether few sentences of one package do.
    """

    def __init__(self, encoder: Encoder, seed: int, quick: bool) -> None:
        self.network, self._quick = encoder.network, quick
        self._name = None if quick else f"retrieval {seed}"

        def part(name: str, seed: int) -> Part:
            packages = ("optuna",) if quick else PACKAGES[name]
            inputs = encoder.inputs(drawn(packages, 40 if quick else COUNTS[name], seed))
            return Part(inputs, embeddings(self.network, *inputs))

        self.validation, self.test = part("validation", 1000 + seed), part("test", 0)
        calibration = Calibration([part("calibration", 2000 + seed).inputs])
        example = tuple(each[:2] for each in self.test.inputs)
        self.plain = PruningSpace(self.network, example)
        self.refitted = PruningSpace(
            self.network,
            example,
            importance=ReconstructionError(calibration),
            reconstruction=LeastSquares(calibration),
        )

    def metric(self, small: nn.Module) -> float:
        """Return recall@10 on validation sentences."""
        return recall(embeddings(small, *self.validation.inputs), self.validation.dense)

    def place(self, search: str) -> tuple[str | None, Path | None]:
        """Return the name under which a search is kept, and where; None if it is not."""
        name = f"{self._name} {search}"
        return (name, WORK / f"{name}.journal") if self._name else (None, None)

    def constraint(self, space: PruningSpace, target: float) -> SparsityConstraint:
        """Return the target, within half a percent; small networks have few sizes."""
        return SparsityConstraint(space, target, tolerance=0.03 if self._quick else 0.005)


def swept(case: Case) -> optuna.Study:
    """Return a study of the network pruned in one group at a time, which serves every target."""
    candidates = additive_sweep(case.constraint(case.refitted, TARGETS[0]), levels=LEVELS)
    objective = PruningObjective(case.refitted, case.metric)
    return searched(objective, None, candidates, len(candidates), *case.place("sweep"))


def found(case: Case, target: float, sweep: optuna.Study, calls: int) -> tuple[Coefficients, Coefficients]:
    """Return where the sweep says to begin, and the best that finite differences find from there."""
    constraint = case.constraint(case.refitted, target)
    start = additive_start(sweep, constraint)
    first = [start, *(c for name, c in baselines(case.refitted, constraint).items() if name in HEURISTICS)]
    objective = PruningObjective(case.refitted, case.metric, constraint)
    study = searched(objective, FiniteDifferenceSampler(constraint), first, calls, *case.place(f"{target}"))
    return start, case.refitted.coefficients(study.best_trial.params)


def networks(case: Case, target: float, sweep: optuna.Study, calls: int) -> Iterator[tuple[str, nn.Module | None, int]]:
    """Yield methods, their networks (None: there is none) and how often each called the metric.

    What is not refitted knows no data and is the same for every seed.
    """
    for space, kind in ((case.plain, ""), (case.refitted, ", refitted")):
        starts = baselines(space, case.constraint(space, target))
        for name in HEURISTICS:
            yield f"{name}{kind}", space.prune(starts[name]), 0
    for name, everywhere in peers.METHODS.items():
        small = peers.by_torch_pruning(case.network, case.test.inputs, target, everywhere=everywhere)
        yield name, small, 0
        yield f"{name}, refitted", with_units_of(small, case.network, case.refitted), 0
    start, best = found(case, target, sweep, calls)
    yield "sweep alone, refitted", case.refitted.prune(start), len(sweep.trials)
    yield OURS, case.refitted.prune(best), len(sweep.trials) + calls


def widths(case: Case, small: nn.Module) -> str:
    """Return how many units of each group are left, in the order of the groups."""
    weights, dense = dict(small.named_parameters()), dict(case.network.named_parameters())
    counts = []
    for group in case.refitted.groups:
        name = f"{group.name}.weight"
        counts.append(len(weights[name]) * group.size // len(dense[name]))
    return " ".join(map(str, counts))


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: nothing is measured")
        return
    encoder = stand_in() if quick else pretrained()
    warnings.filterwarnings("ignore", module="torch_pruning")
    for seed in tqdm(range(1 if quick else SEEDS), desc="seeds"):
        missing = [target for target in TARGETS if (seed, target, OURS) not in rows]
        if missing:
            case = Case(encoder, seed, quick)
            sweep = swept(case)
            for target in missing[:1] if quick else missing:
                of_target(rows, case, (seed, target), sweep, 6 if quick else CALLS)


def of_target(rows: Rows, case: Case, key: tuple[int, float], sweep: optuna.Study, calls: int) -> None:
    """Measure all methods at one target."""
    seed, target = key
    dense = {"sparsity": 0.0, "validation": 1.0, "recall": 1.0, "rank_correlation": 1.0, "calls": 0, "kept": ""}
    rows.keep({"seed": seed, "target": target, "method": "dense", **dense})
    for method, small, spent in networks(case, target, sweep, calls):
        if seed and not method.endswith(("refitted", OURS)):
            continue
        row = {"seed": seed, "target": target, "method": method, "calls": spent}
        if small is not None:
            made = embeddings(small, *case.test.inputs)
            row["sparsity"] = 1 - parameters(small) / parameters(case.network)
            row["validation"] = case.metric(small)
            row["recall"] = recall(made, case.test.dense)
            row["rank_correlation"] = rank_correlation(made, case.test.dense)
            row["kept"] = widths(case, small)
        rows.keep(row)


def tables(rows: Rows) -> list[str]:
    """Return tables in Markdown: all methods, and what ours left of each layer."""
    targets = sorted({row["target"] for row in rows})
    head = " | ".join(f"{target:.0%}: recall@10 | rank correlation" for target in targets)
    lines = [f"| method | {head} | metric calls |", "| --- |" + " --- |" * (2 * len(targets) + 1)]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for target in targets:
            mine = [row for row in rows.where(method=method, target=target) if row["recall"] != ""]
            values = [[row[name] for row in mine] for name in ("recall", "rank_correlation")]
            cells += [mean(each, 3) if each else "" for each in values]
        calls = max(row["calls"] for row in rows.where(method=method))
        lines.append(f"| {method} | {' | '.join(cells)} | {calls} |")
    lines += ["", *left(rows, targets)]
    return lines


def left(rows: Rows, targets: list[float]) -> list[str]:
    """Return a table of heads and units that ours left in each layer, for the first seed."""
    kept = {row["target"]: row["kept"].split() for row in rows.where(method=OURS, seed=0)}
    shown = [target for target in targets if target in kept]
    head = " | ".join(f"{target:.0%}: heads | feed-forward units" for target in shown)
    lines = [f"| layer | {head} |", "| --- |" + " --- |" * (2 * len(shown))]
    for layer in range(len(next(iter(kept.values()), [])) // 2):
        cells = [kept[target][2 * layer + i] for target in shown for i in (0, 1)]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    command(measure, tables, columns=COLUMNS, keys=3, file=FILE, quick="a small BERT of random weights, few sentences")
