"""What proposing a candidate costs beside random sampling, in memory, with a metric that costs nothing."""

from __future__ import annotations

import itertools
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler
from torch import nn
from tqdm import tqdm

from optuna_softprune import PruningSpace, SparsityConstraint
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, SLSQPSampler
from studies.command import command
from studies.rows import Rows, markdown

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ["sampler", "groups", "trials", "ms", "random_ms", "ratio"]


def space_of(groups: int) -> PruningSpace:
    """Return the space of a chain of linear layers with `groups` hidden widths of 40 to 56."""
    widths = [24, *itertools.islice(itertools.cycle((40, 48, 56)), groups), 24]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Identity())]
    return PruningSpace(nn.Sequential(*layers[:-1]).eval(), (torch.randn(4, 24),))


def per_trial_ms(space: PruningSpace, sampler: BaseSampler, trials: int) -> float:
    """Return the mean milliseconds of a trial."""
    bounds = {name: found.high for name, found in space.distributions.items()}
    center = np.random.default_rng(0).uniform(0, 0.9, len(bounds))
    study = optuna.create_study(sampler=sampler)

    def bowl(trial: optuna.Trial) -> float:
        c = np.array([trial.suggest_float(name, 0.0, high) for name, high in bounds.items()])
        return float(((c - center) ** 2).sum())

    start = time.perf_counter()
    study.optimize(bowl, n_trials=trials)
    return (time.perf_counter() - start) / len(study.trials) * 1e3


def cases(quick: bool) -> list[tuple[str, PruningSpace, Callable[[], BaseSampler], int]]:
    """Return (name, space, sampler, trials) of what is measured."""
    found: list[tuple[str, PruningSpace, Callable[[], BaseSampler], int]] = []
    # Groups and levels: 5 ** 3, 10 ** 3, 5 ** 5, 10 ** 4 points.
    for groups, levels in ((3, 5),) if quick else ((3, 10), (5, 5), (4, 10)):
        space = space_of(groups)
        found.append(("grid", space, partial(FeasibleGridSampler, space, levels=levels), levels**groups))
    for groups, trials in ((3, 60),) if quick else ((5, 500), (12, 500), (20, 500), (20, 1000)):
        space = space_of(groups)
        constraint = SparsityConstraint(space, 0.5)
        found.append(("finite differences", space, partial(FiniteDifferenceSampler, constraint), trials))
        found.append(("SLSQP", space, partial(SLSQPSampler, constraint), trials))
    return found


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing in turn with `RandomSampler`, five times, or once."""
    for name, space, sampler, trials in tqdm(cases(quick)):
        key = {"sampler": name, "groups": len(space.groups), "trials": trials}
        if tuple(key.values()) in rows:
            continue
        ours, randoms = [], []
        for _ in range(1 if quick else 5):
            ours.append(per_trial_ms(space, sampler(), trials))
            randoms.append(per_trial_ms(space, RandomSampler(seed=0), trials))
        ratio = statistics.median(a / b for a, b in zip(ours, randoms, strict=True))
        found = {"ms": statistics.median(ours), "random_ms": statistics.median(randoms), "ratio": ratio}
        rows.keep({**key, **{name: round(value, 2) for name, value in found.items()}})


if __name__ == "__main__":
    file = Path(__file__).parent / "results.csv"
    command(measure, markdown, columns=COLUMNS, keys=3, file=file, quick="small cases, once")
