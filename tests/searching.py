"""A search to be killed: `python searching.py STORAGE TRIALS|grid`; says when its trials begin."""

from __future__ import annotations

import sys
import time

import optuna
import torch
from torch import nn

from optuna_softprune import (
    PruningObjective,
    PruningSpace,
    SparsityConstraint,
    open_storage,
    recover,
    remaining_trials,
)
from optuna_softprune.samplers import FeasibleGridSampler, ProjectedSampler
from optuna_softprune.testing import randomise

NAME = "killed"


def main(storage: str, total: str) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    model = randomise(nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 6)))
    space = PruningSpace(model, (x,))

    def metric(small: nn.Module) -> float:
        time.sleep(0.005)
        return -(small(x) - model(x)).square().mean().item()

    constraint = SparsityConstraint(space, 0.5, tolerance=0.02)
    exhaustive = FeasibleGridSampler(space, constraint, levels=16)
    sampler = ProjectedSampler(optuna.samplers.RandomSampler(), constraint)
    study = optuna.create_study(
        storage=open_storage(storage),
        study_name=NAME,
        direction="maximize",
        load_if_exists=True,
        sampler=exhaustive if total == "grid" else sampler,
    )
    recover(study)
    print("begins", flush=True)
    objective = PruningObjective(space, metric, constraint)
    if total == "grid":
        study.set_user_attr("points", len(exhaustive))
        study.optimize(objective)
    else:
        study.optimize(objective, n_trials=remaining_trials(study, int(total)))
    print("ends", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
