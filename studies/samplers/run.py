"""Which sampler finds the best coefficients, and with how few metric calls? An autoencoder of MNIST, five trainings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from tqdm import tqdm

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import (
    FeasibleGridSampler,
    FiniteDifferenceSampler,
    ProjectedSampler,
    SLSQPSampler,
    baselines,
)
from studies.autoencoders import digits, mnist, psnr, trained
from studies.command import command

if TYPE_CHECKING:
    from studies.rows import Row, Rows

HERE = Path(__file__).parent
TARGETS = (0.5, 0.7)
TRAININGS = 5
BUDGETS = (30, 100, 300)
GP_BUDGET = 100
FREE = "the start alone"
GRID = "exhaustive grid"
# Method -> its sampler, and the baseline that is evaluated first, if any.
Method = tuple[Callable[[SparsityConstraint, int], BaseSampler], str | None]
METHODS: dict[str, Method] = {
    FREE: (lambda c, seed: ProjectedSampler(RandomSampler(seed=seed), c), "nearest"),
    "finite differences": (lambda c, seed: FiniteDifferenceSampler(c, seed=seed), None),
    "SLSQP": (lambda c, seed: SLSQPSampler(c, seed=seed), None),
    "TPE": (lambda c, seed: ProjectedSampler(TPESampler(seed=seed), c), None),
    "TPE, same start": (lambda c, seed: ProjectedSampler(TPESampler(seed=seed), c), "nearest"),
    "CMA-ES": (lambda c, seed: ProjectedSampler(CmaEsSampler(seed=seed), c), None),
    "CMA-ES, same start": (lambda c, seed: ProjectedSampler(CmaEsSampler(seed=seed), c), "nearest"),
    "GP": (lambda c, seed: ProjectedSampler(GPSampler(seed=seed), c), None),
    "GP, same start": (lambda c, seed: ProjectedSampler(GPSampler(seed=seed), c), "nearest"),
    "random": (lambda c, seed: ProjectedSampler(RandomSampler(seed=seed), c), None),
}
COLUMNS = ["seed", "target", "method", "calls", *[f"psnr_{budget}" for budget in BUDGETS], "best", "match", "seconds"]


def best_so_far(study: optuna.Study) -> np.ndarray[Any, Any]:
    """Return the best feasible metric after each trial."""
    values = [
        trial.value if trial.user_attrs["softprune:feasible"] else -np.inf
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    ]
    best: np.ndarray[Any, Any] = np.maximum.accumulate(np.array(values))
    return best


def searched(
    objective: PruningObjective, sampler: BaseSampler, calls: int, first: dict[str, float] | None
) -> tuple[np.ndarray[Any, Any], float]:
    """Return the best metric after each call, and the seconds of the search."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if first is not None:
        study.enqueue_trial(first)
    start = time.perf_counter()
    study.optimize(objective, n_trials=calls)
    return best_so_far(study), time.perf_counter() - start


def row_of(seed: int, target: float, method: str, best: np.ndarray[Any, Any], seconds: float, aim: float) -> Row:
    """Return a row of the table; `aim` is the grid's best metric."""
    reached = np.flatnonzero(best >= aim - 1e-4)
    budgets = {f"psnr_{n}": round(float(best[n - 1]), 4) if n <= len(best) else "" for n in BUDGETS}
    return {
        "seed": seed,
        "target": target,
        "method": method,
        "calls": len(best),
        **budgets,
        "best": round(float(best[-1]), 4),
        "match": int(reached[0]) + 1 if len(reached) else "",
        "seconds": round(seconds, 1),
    }


def measured(seed: int, quick: bool, rows: Rows) -> None:
    """Add the rows of one training that are not there."""
    images = digits() if quick else mnist()
    model = trained("fully connected", seed, images)
    space = PruningSpace(model, (images.validation[:2],))
    for target in TARGETS[:1] if quick else TARGETS:
        constraint = SparsityConstraint(space, target, tolerance=0.03 if quick else 0.005)
        objective = PruningObjective(space, lambda network: psnr(network, images.validation), constraint)
        starts = baselines(space, constraint)
        if (seed, target, GRID) not in rows:
            grid = FeasibleGridSampler(space, constraint, levels=4 if quick else 11)
            best, seconds = searched(objective, grid, len(grid), None)
            rows.keep(row_of(seed, target, GRID, best, seconds, float(best[-1])))
        aim = rows[(seed, target, GRID)]["best"]
        for method, (sampler, start) in tqdm(METHODS.items(), desc=f"training {seed}, target {target}"):
            if (seed, target, method) in rows:
                continue
            calls = 1 if method == FREE else GP_BUDGET if method.startswith("GP") else BUDGETS[-1]
            first = None if start is None else starts[start]
            best, seconds = searched(objective, sampler(constraint, seed), min(calls, 20) if quick else calls, first)
            rows.keep(row_of(seed, target, method, best, seconds, aim))


def summary(rows: Rows) -> list[str]:
    """Return the lines of a Markdown table: medians over trainings, and how often the grid's best was reached."""
    lines = []
    for target in sorted({row["target"] for row in rows}):
        mine = [row for row in rows if row["target"] == target]
        aims = {row["seed"]: row["best"] for row in mine if row["method"] == GRID}
        grid = statistics.median(row["calls"] for row in mine if row["method"] == GRID)
        lines += [
            f"Target {target}: the grid has {grid:g} points; its best, {statistics.median(aims.values()):.2f} dB "
            "(median), is the zero of the columns in dB.",
            "",
            "| method | " + " | ".join(f"after {n}" for n in BUDGETS) + " | matched | calls to match (median, all) |",
            "| --- |" + " --- |" * (len(BUDGETS) + 2),
        ]
        for method in METHODS:
            found = [row for row in mine if row["method"] == method]
            gains = []
            for budget in BUDGETS:
                each = [row[f"psnr_{budget}"] - aims[row["seed"]] for row in found if row[f"psnr_{budget}"] != ""]
                gains.append(f"{statistics.median(each):+.2f} ({min(each):+.2f} to {max(each):+.2f})" if each else "")
            if method == FREE:
                each = [row["best"] - aims[row["seed"]] for row in found]
                gains[0] = f"{statistics.median(each):+.2f} ({min(each):+.2f} to {max(each):+.2f}), one call"
            matches = sorted(row["match"] if row["match"] != "" else float("inf") for row in found)
            middle = f"{statistics.median(matches):g} ({', '.join(f'{m:g}' for m in matches)})" if matches else ""
            reached = sum(m != float("inf") for m in matches)
            lines.append(f"| {method} | {' | '.join(gains)} | {reached} of {len(found)} | {middle} |")
        lines.append("")
    return lines


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    for seed in range(1 if quick else TRAININGS):
        measured(seed, quick, rows)


if __name__ == "__main__":
    quick, file = "scikit-learn's digits, one training, 20 calls", HERE / "results.csv"
    command(measure, summary, columns=COLUMNS, keys=3, file=file, quick=quick)
