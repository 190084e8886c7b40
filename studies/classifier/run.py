"""How small can a residual classifier be for its accuracy, before and after a short training?"""

from __future__ import annotations

import functools
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import torch
from optuna.samplers import TPESampler
from torch import nn
from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    Requirement,
    SparsityConstraint,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines
from studies.classifier.peers import WAYS, by_torch_pruning
from studies.classifiers import Digits, Part, accuracy, digits, halved, mnist, train, trained
from studies.command import command
from studies.intervals import mean
from studies.peers.refitted import with_units_of
from studies.peers.sizes import parameters
from studies.searching import HEURISTICS, searched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna_softprune.coefficients import Of
    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "results.csv"
COLUMNS = ["part", "of", "seed", "target", "method", "sparsity", "sparsity_macs", "validation", "test", "tuned"]
COLUMNS += ["calls", "seconds"]
KEYS = 5
TRAININGS, TARGETS = 3, (0.5, 0.7, 0.8)
POINTS, SMALL_TARGETS = 0.005, (0.7, 0.8, 0.85, 0.9)
CALLS = 40
TUNING_STEPS, TUNING_RATE = 50, 1e-3
OURS = "finite differences, refitted"

Coefficients = dict[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One trained network.

    Attributes:
        seed: Of its training.
        data: The images.
        model: The network.
        plain: The search space without reconstruction.
        refitted: With reconstruction, from images that are neither trained nor searched on.
        calls: Metric calls of a search.
        steps: Of the short training.
        tolerance: Of targets.
    """

    seed: int
    data: Digits
    model: nn.Module
    plain: PruningSpace
    refitted: PruningSpace
    calls: int
    steps: int
    tolerance: float

    def metrics(self, network: nn.Module) -> dict[str, float]:
        """Return the validation accuracy, and a score that tells networks apart that are right equally often."""
        part = self.data.validation
        with torch.no_grad():
            outputs = torch.cat([network(images) for images in part.images.split(500)])  # type: ignore[no-untyped-call]
        right = (outputs.argmax(1) == part.classes).float().mean().item()
        return {"accuracy": right, "score": right - 1e-3 * nn.functional.cross_entropy(outputs, part.classes).item()}

    def measured(self, small: nn.Module) -> Row:
        """Return the values of a smaller network, before and after a short training, always in the same order."""
        row = {"sparsity": 1 - parameters(small) / parameters(self.model)}
        row |= {"sparsity_macs": 1 - self.macs(small) / self.macs(self.model)}
        row |= {"validation": accuracy(small, self.data.validation), "test": accuracy(small, self.data.test)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            train(small, self.data.training, self.steps, TUNING_RATE)
        return {**row, "tuned": accuracy(small, self.data.test)}

    def macs(self, network: nn.Module) -> int:
        """Return the multiply-accumulates of one image."""
        with torch.no_grad(), torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            network(self.data.calibration[:1])
        return int(counter.get_total_flops()) // 2


def case(seed: int, data: Digits, quick: bool) -> Case:
    """Return a trained network with its search spaces."""
    model = trained(seed, data, quick=quick)
    calibration = Calibration([(data.calibration,)])
    plain = PruningSpace(model, (data.calibration[:2],))
    order, refit = ReconstructionError(calibration), LeastSquares(calibration)
    refitted = PruningSpace(model, (data.calibration[:2],), importance=order, reconstruction=refit)
    sizes = (8, 2, 0.03) if quick else (CALLS, TUNING_STEPS, 0.005)
    return Case(seed, data, model, plain, refitted, *sizes)


def search(of: Case, space: PruningSpace, constraint: SparsityConstraint) -> Coefficients:
    """Return the best coefficients that finite differences find, which begin with the heuristics."""
    objective = PruningObjective(space, of.metrics, constraint, objectives=("score",))
    first = baselines(space, constraint).values()
    study = searched(objective, FiniteDifferenceSampler(constraint), first, of.calls)
    return space.coefficients(study.best_trial.params)


def at_target(rows: Rows, of: Case, counted: Of, target: float) -> None:
    """Compare networks of one size."""
    key = {"part": "target", "of": counted, "seed": of.seed, "target": target}

    def keep(method: str, make: Callable[[], nn.Module], calls: int = 0) -> None:
        if (*key.values(), method) not in rows:
            start = time.perf_counter()
            small = make()
            seconds = time.perf_counter() - start
            rows.keep({**key, "method": method, **of.measured(small), "calls": calls, "seconds": seconds})

    for space, after in ((of.plain, ""), (of.refitted, ", refitted")):
        constraint = SparsityConstraint(space, target, of=counted, tolerance=of.tolerance)
        for name in HEURISTICS:
            keep(name + after, lambda space=space, name=name, to=constraint: space.prune(baselines(space, to)[name]))  # type: ignore[misc]
        keep(
            f"finite differences{after}",
            lambda space=space, to=constraint: space.prune(search(of, space, to)),  # type: ignore[misc]
            of.calls,
        )
    size = parameters if counted == "parameters" else of.macs
    labelled = Part(of.data.training.images[-1000:], of.data.training.classes[-1000:])
    for way in WAYS:
        make = functools.cache(functools.partial(by_torch_pruning, of.model, labelled, size, target, way))
        keep(f"{way}, refitted", lambda make=make: with_units_of(make(), of.model, of.refitted))  # type: ignore[misc]
        keep(way, make)


def by_targets(of: Case, requirement: Requirement) -> Iterator[Coefficients]:
    """Yield the best network of each of some targets, the smallest first."""
    for target in reversed(SMALL_TARGETS):
        yield search(of, of.refitted, SparsityConstraint(of.refitted, target, tolerance=of.tolerance))


def by_tpe(of: Case, requirement: Requirement) -> Iterator[Coefficients]:
    """Yield what TPE finds when it makes parameters few under the requirement, the smallest first."""
    space = of.refitted
    objective = PruningObjective(
        space, of.metrics, objectives=("parameters",), directions=("minimize",), requirements=(requirement,)
    )
    study = optuna.create_study(direction="minimize", sampler=TPESampler(seed=of.seed))
    for target in SMALL_TARGETS:
        constraint = SparsityConstraint(space, target, tolerance=of.tolerance)
        study.enqueue_trial(baselines(space, constraint)["global norm"])
    study.optimize(objective, n_trials=of.calls * len(SMALL_TARGETS))
    found = [trial for trial in study.trials if trial.user_attrs["softprune:feasible"]]
    yield from sorted((space.coefficients(trial.params) for trial in found), key=space.parameters)


def under_requirement(rows: Rows, of: Case) -> None:
    """Find the smallest network that is hardly less accurate than the dense one, in as many calls by each method."""
    key = {"part": "requirement", "of": "parameters", "seed": of.seed, "target": POINTS}
    enough = accuracy(of.model, of.data.validation) - POINTS
    methods = {"finite differences at some targets": by_targets, "TPE, fewest parameters": by_tpe}
    for method, candidates in methods.items():
        if (*key.values(), method) in rows:
            continue
        start = time.perf_counter()
        found = candidates(of, Requirement("accuracy", at_least=enough))
        good = (c for c in found if of.metrics(of.refitted.prune(c))["accuracy"] >= enough)
        c = next(good, dict.fromkeys(of.refitted.distributions, 0.0))
        cost = {"calls": of.calls * len(SMALL_TARGETS), "seconds": time.perf_counter() - start}
        rows.keep({**key, "method": method, **of.measured(of.refitted.prune(c)), **cost})


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    data = digits() if quick else halved(mnist())
    for seed in range(1 if quick else TRAININGS):
        of = case(seed, data, quick)
        if ("dense", "parameters", seed, 0.0, "dense") not in rows:
            row = of.measured(of.plain.prune(dict.fromkeys(of.plain.distributions, 0.0)))
            rows.keep({"part": "dense", "of": "parameters", "seed": seed, "target": 0.0, "method": "dense", **row})
        kinds: tuple[Of, ...] = ("parameters",) if quick else ("parameters", "macs")
        for counted, target in tqdm(
            list(itertools.product(kinds, TARGETS[1:2] if quick else TARGETS)), desc=f"training {seed}"
        ):
            at_target(rows, of, counted, target)
        if not quick:
            under_requirement(rows, of)


def tables(rows: Rows) -> list[str]:
    """Return the tables in Markdown: means over the trainings in %, with half of their 95 % intervals."""

    def cell(found: list[Row], column: str) -> str:
        return mean([100 * row[column] for row in found], 1)

    dense = rows.where(part="dense")
    lines = [f"Dense, {len(dense)} trainings: {cell(dense, 'test')} % right of the test images.", ""]
    for counted, column in (("parameters", "sparsity"), ("macs", "sparsity_macs")):
        targets = sorted({row["target"] for row in rows.where(part="target", of=counted)})
        if not targets:
            continue
        head = [f"{target:.0%} of {counted}: {what}" for target in targets for what in ("% right", "trained on")]
        lines += [f"| method | {' | '.join(head)} | removed at most off |", "| --- |" + " --- |" * (len(head) + 1)]
        for method in dict.fromkeys(row["method"] for row in rows.where(part="target", of=counted)):
            each = [rows.where(part="target", of=counted, target=target, method=method) for target in targets]
            cells = [cell(found, what) for found in each for what in ("test", "tuned")]
            off = max(abs(row[column] - row["target"]) for found in each for row in found)
            lines.append(f"| {method} | {' | '.join(cells)} | {off:.3f} |")
        lines.append("")
    found = rows.where(part="requirement")
    if found:
        head = [f"smallest within {100 * POINTS:g} points", "% removed", "of MACs", "% right", "trained on", "calls"]
        lines.append(f"| {' | '.join(head)} |")
        lines.append("| --- |" + " --- |" * 5)
    for method in dict.fromkeys(row["method"] for row in found):
        mine = rows.where(part="requirement", method=method)
        cells = [cell(mine, column) for column in ("sparsity", "sparsity_macs", "test", "tuned")]
        lines.append(f"| {method} | {' | '.join(cells)} | {mine[0]['calls']} |")
    seconds = sum(row["seconds"] for row in rows if row["seconds"] != "")
    return [*lines, "", f"Searches took {seconds / 60:.1f} minutes in all."]


if __name__ == "__main__":
    quick = "scikit-learn's digits, one training, one target, few calls"
    command(measure, tables, columns=COLUMNS, keys=KEYS, file=FILE, quick=quick)
