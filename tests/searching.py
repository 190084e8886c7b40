"""A search to be killed: `python searching.py STORAGE SAMPLER TRIALS [SECONDS]`; says when its trials begin."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import optuna
import torch
from torch import nn

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    Requirement,
    SparsityConstraint,
    open_storage,
    recover,
    remaining_trials,
)
from optuna_softprune.samplers import (
    FeasibleGridSampler,
    FiniteDifferenceSampler,
    LargestSparsitySampler,
    ProjectedSampler,
    SLSQPSampler,
)
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier

    from optuna.samplers import BaseSampler

NAME = "killed" + os.environ.get("PYTEST_XDIST_WORKER", "")  # servers are shared by the processes of a test run


WIDTHS = {
    "random": (20, 16),
    "grid": (20, 16, 12),
    "fd": (20, 16, 12, 20),
    "slsqp": (20, 16, 12, 20),
    "simultaneous": (20, 16, 12, 20),
    "largest": (40, 32, 24, 40, 32),
    "tpe": (20, 16, 12),
}


def searched(
    kind: str, *, seconds: float = 0.005, interruption: type[BaseException] | None = None
) -> tuple[PruningObjective, BaseSampler]:
    """Return the objective and the sampler of a small network's search; the metric may be interrupted at its third.

    The network of a kind that ends in " refitted" has batch norms, and is refitted.
    """
    calls = itertools.count()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    kind, _, refitted = kind.partition(" ")
    widths = (6, *WIDTHS[kind], 6)
    norm = nn.BatchNorm1d if refitted else nn.Identity
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), norm(b), nn.Tanh())]
    model = randomise(nn.Sequential(*layers[:-1]))
    calibration = Calibration([(torch.randn(32, 6, generator=torch.Generator().manual_seed(i)),) for i in (1, 2)])
    reconstruction = LeastSquares(calibration) if refitted else None
    space = PruningSpace(model, (x,), reconstruction=reconstruction)

    def metric(small: nn.Module) -> float:
        time.sleep(seconds)
        if interruption is not None and next(calls) == 2:
            raise interruption
        with torch.set_grad_enabled(not refitted):
            return -(small(x) - model(x)).square().mean().item()

    if kind == "largest":
        close = Requirement("metric", at_least=-0.2)
        smallest = PruningObjective(space, metric, objectives=("sparsity",), requirements=(close,))
        return smallest, LargestSparsitySampler(space)
    constraint = SparsityConstraint(space, 0.5, tolerance=0.02)
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: ProjectedSampler(optuna.samplers.RandomSampler(), constraint),
        "tpe": lambda: ProjectedSampler(optuna.samplers.TPESampler(), constraint),
        "grid": lambda: FeasibleGridSampler(space, constraint, levels=16),
        "fd": lambda: FiniteDifferenceSampler(constraint),
        "slsqp": lambda: SLSQPSampler(constraint),
        "simultaneous": lambda: FiniteDifferenceSampler(constraint, scheme="simultaneous"),
    }
    return PruningObjective(space, metric, constraint), samplers[kind]()


def open_together(address: str, together: Barrier) -> None:
    """Open a storage in the same moment as other processes."""
    together.wait(60)
    open_storage(address)


def main(storage: str, kind: str, total: str, seconds: str = "0.005") -> None:
    for told in (signal.SIGTERM, signal.SIGINT):  # a shell lets what it starts in the background ignore Ctrl-C
        signal.signal(told, signal.default_int_handler)  # ends as with Ctrl-C
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective, sampler = searched(kind, seconds=float(seconds))
    study = optuna.create_study(
        storage=open_storage(storage), study_name=NAME, direction="maximize", load_if_exists=True, sampler=sampler
    )
    recover(study)
    print("begins", flush=True)
    if isinstance(sampler, FeasibleGridSampler):
        study.set_user_attr("points", len(sampler))
        study.optimize(objective)
    else:
        study.optimize(objective, n_trials=remaining_trials(study, int(total)))
    print("ends", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
