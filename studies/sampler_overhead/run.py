"""What the feasible grid costs a trial beside random sampling, in memory, with a metric that costs nothing."""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

from optuna_softprune import PruningSpace
from optuna_softprune.samplers import FeasibleGridSampler


def space_of(groups: int) -> PruningSpace:
    """Return the space of a chain of linear layers with `groups` hidden widths of 40."""
    widths = [4, *[40] * groups, 4]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return PruningSpace(nn.Sequential(*layers).eval(), (torch.randn(1, 4),))


def per_trial_ms(space: PruningSpace, sampler: optuna.samplers.BaseSampler, trials: int) -> float:
    """Return the mean milliseconds of a trial."""
    study = optuna.create_study(sampler=sampler)
    bounds = {name: found.high for name, found in space.distributions.items()}
    start = time.perf_counter()
    study.optimize(lambda t: sum(t.suggest_float(n, 0.0, high) for n, high in bounds.items()), n_trials=trials)
    return (time.perf_counter() - start) / trials * 1e3


def main() -> None:
    """Measure grids of 1,000 to 10,000 points; with `--quick` one of 125."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one grid of 125 points, once")
    quick = parser.parse_args().quick
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[dict[str, Any]] = []
    # Groups and levels: 5 ** 3, 10 ** 3, 5 ** 5, 10 ** 4 points.
    for groups, levels in ((3, 5),) if quick else ((3, 10), (5, 5), (4, 10)):
        space = space_of(groups)
        grids, randoms = [], []
        for _ in range(1 if quick else 5):
            sampler = FeasibleGridSampler(space, levels=levels)
            grids.append(per_trial_ms(space, sampler, len(sampler)))
            randoms.append(per_trial_ms(space, optuna.samplers.RandomSampler(seed=0), len(sampler)))
        ratios = [grid / random for grid, random in zip(grids, randoms, strict=True)]
        row = {
            "points": len(FeasibleGridSampler(space, levels=levels)),
            "grid_ms": round(statistics.median(grids), 3),
            "random_ms": round(statistics.median(randoms), 3),
            "grid/random": round(statistics.median(ratios), 2),
        }
        if not rows:
            print(" | ".join(row))
        print(" | ".join(map(str, row.values())), flush=True)
        rows.append(row)
    if not quick:
        with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
