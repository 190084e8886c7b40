"""How many calls does a search of 50, 100 or 200 groups need? Analytic problems whose optimum is known."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from tqdm import tqdm

from optuna_softprune.samplers import (
    FiniteDifferenceSampler,
    ProjectedSampler,
    SLSQPSampler,
    additive_start,
    additive_sweep,
)
from optuna_softprune.testing import AnalyticProblem, problem_of_many_groups
from studies.command import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna_softprune import SparsityConstraint
    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "analytic.csv"
# Groups -> seeds: of the problem and of the sampler.
SIZES = {50: 3, 100: 1, 200: 1}
# Samplers that cost more than the others together are measured with 50 groups alone.
COSTLY, COSTLY_GROUPS = ("CMA-ES", "TPE", "random"), 50
KINDS: dict[str, dict[str, Any]] = {
    "separable": {},
    "chained": {"chained": True},
    "chained, interactions": {"chained": True, "interactions": True},
    "chained, interactions, noisy": {"chained": True, "interactions": True, "noise": 0.02},
}
NOISY = "chained, interactions, noisy"
WITHIN = 0.01
# TPE fits two densities for each parameter in each trial.
TPE_CALLS = 400


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    Attributes:
        sampler: What proposes candidates, by constraint and seed; None: the additive start is all there is.
        sweep: Whether each group is measured alone first; else the network nearest to the dense one is.
        calls: At most so many; None: 12 a group and 200.
    """

    sampler: Callable[[SparsityConstraint, int], BaseSampler] | None
    sweep: bool = False
    calls: int | None = None


METHODS = {
    "additive start alone": Method(None, sweep=True),
    "simultaneous, sweep": Method(
        lambda c, seed: FiniteDifferenceSampler(c, seed=seed, scheme="simultaneous"), sweep=True
    ),
    "simultaneous": Method(lambda c, seed: FiniteDifferenceSampler(c, seed=seed, scheme="simultaneous")),
    "one-sided, sweep": Method(lambda c, seed: FiniteDifferenceSampler(c, seed=seed), sweep=True),
    "one-sided": Method(lambda c, seed: FiniteDifferenceSampler(c, seed=seed)),
    "SLSQP": Method(lambda c, seed: SLSQPSampler(c, seed=seed)),
    "CMA-ES": Method(lambda c, seed: ProjectedSampler(CmaEsSampler(seed=seed), c)),
    "TPE": Method(lambda c, seed: ProjectedSampler(TPESampler(seed=seed), c), calls=TPE_CALLS),
    "random": Method(lambda c, seed: ProjectedSampler(RandomSampler(seed=seed), c)),
}
KEYS = ["kind", "groups", "seed", "method"]
COLUMNS = [*KEYS, "cap", "calls", "within", "after_5", "best", "seconds"]


def searched(problem: AnalyticProblem, method: Method, seed: int, cap: int) -> list[float]:
    """Return the exact loss of the best feasible candidate after each call; the search ends within 1 % of the optimum.

    The best is the one with the lowest measured loss; with noise the search goes on to the cap.
    """
    constraint = problem.constraint
    best: list[float] = []
    lowest = np.inf

    def loss(trial: optuna.Trial) -> float:
        nonlocal lowest
        highest = zip(constraint.names, constraint.highest.tolist(), strict=True)
        c = constraint.snap(np.array([trial.suggest_float(name, 0, high) for name, high in highest]))
        outside, value = float(constraint.violation(c)), problem.loss(c)
        trial.set_constraint("sparsity", outside)
        before = best[-1] if best else np.inf
        best.append(problem.exact(c) if outside <= 0 and value < lowest else before)
        lowest = min(lowest, value) if outside <= 0 else lowest
        if len(best) >= cap or (not problem.noise and best[-1] <= (1 + WITHIN) * problem.exact(problem.optimum)):
            trial.study.stop()
        return value

    study = optuna.create_study()
    nearest = constraint.project(np.zeros(len(constraint.names)))
    first = additive_sweep(constraint) if method.sweep else [dict(zip(constraint.names, nearest.tolist(), strict=True))]
    for c in first:
        study.enqueue_trial(c)
    study.optimize(loss, n_trials=len(first))
    if method.sampler is None:
        study.enqueue_trial(additive_start(study, constraint))
        study.optimize(loss, n_trials=1)
    elif len(best) < cap:
        study.sampler = method.sampler(constraint, seed)
        study.optimize(loss)
    return best


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    for groups, seeds in ({12: 1} if quick else SIZES).items():
        for kind, settings in KINDS.items():
            for seed in range(seeds):
                problem = problem_of_many_groups(groups, seed=seed, **settings)
                for name, method in tqdm(METHODS.items(), desc=f"{groups} groups, {kind}, seed {seed}"):
                    if (kind, groups, seed, name) in rows or (name in COSTLY and groups > COSTLY_GROUPS):
                        continue
                    cap = min(12 * groups + 200, method.calls or 10**6, 60 if quick else 10**6)
                    start = time.process_time()
                    best = searched(problem, method, seed, cap)
                    seconds = time.process_time() - start
                    rows.keep(_row(dict(zip(KEYS, (kind, groups, seed, name), strict=True)), cap, best, seconds))


def _row(key: Row, cap: int, best: list[float], seconds: float) -> Row:
    """Return a row; the optimum's loss is 1."""
    reached = np.flatnonzero(np.array(best) <= 1 + WITHIN)
    after = best[min(5 * key["groups"], len(best)) - 1]
    found = {"within": int(reached[0]) + 1 if len(reached) else "", "after_5": after, "best": best[-1]}
    return {**key, "cap": cap, "calls": len(best), **found, "seconds": round(seconds, 1)}


def tables(rows: Rows) -> list[str]:
    """Return the lines of Markdown tables: calls to come within 1 %, and what is reached under noise."""
    sizes = sorted({row["groups"] for row in rows})
    lines = []
    for kind in (kind for kind in KINDS if kind != NOISY):
        lines += [
            f"{kind.capitalize()}: calls to within 1 % of the optimum.",
            "",
            "| method | " + " | ".join(f"{groups} groups" for groups in sizes) + " |",
            "| --- |" + " --- |" * len(sizes),
        ]
        for name in METHODS:
            cells = [_calls(rows.where(kind=kind, groups=groups, method=name)) for groups in sizes]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += [
        f"{NOISY.capitalize()}: how far above the optimum's loss, in %.",
        "",
        "| method | " + " | ".join(f"{groups} groups, 5 calls a group | at the cap" for groups in sizes) + " |",
        "| --- |" + " --- |" * (2 * len(sizes)),
    ]
    for name in METHODS:
        cells = []
        for groups in sizes:
            found = rows.where(kind=NOISY, groups=groups, method=name)
            cells += [_excess([row[column] for row in found]) for column in ("after_5", "best")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _calls(found: list[Row]) -> str:
    """Return the median of the calls; where a search did not come so near, where it ended."""
    if not found:
        return ""
    reached = [row["within"] if row["within"] != "" else np.inf for row in found]
    middle = statistics.median(reached)
    if middle < np.inf:
        missed = sum(each == np.inf for each in reached)
        return f"{middle:g}" + (f" ({len(found) - missed} of {len(found)})" if missed else "")
    return f"{_excess([row['best'] for row in found])} % above after {found[0]['calls']}"


def _excess(losses: list[float]) -> str:
    return f"{100 * (statistics.median(losses) - 1):.1f}" if losses else ""


if __name__ == "__main__":
    quick = "twelve groups, one seed, 60 calls"
    command(measure, tables, columns=COLUMNS, keys=len(KEYS), file=FILE, quick=quick)
