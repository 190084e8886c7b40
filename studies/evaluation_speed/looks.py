"""What it costs to look again, whole, at each candidate that becomes the best, beside the search that it is part of."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import torch
from torch import Tensor, nn
from tqdm import tqdm

from optuna_softprune import PruningObjective, PruningSpace, SoftPruneWarning, SparsityConstraint
from optuna_softprune.evaluation import Evaluator
from optuna_softprune.samplers import ProjectedSampler, SLSQPSampler
from optuna_softprune.testing import randomise
from studies.classifiers import classifier
from studies.command import command
from studies.evaluation_speed.run import fully_connected
from studies.reconstruction.transformer import VisionTransformer
from studies.rows import Rows, markdown

COLUMNS = ["network", "sampler", "trials", "looks", "search_s", "looks_s", "share"]
FILE = Path(__file__).parent / "looks.csv"
SAMPLERS = ("TPE", "SLSQP")


def searched(model: nn.Module, x: Tensor, sampler: str, trials: int) -> dict[str, Any]:
    """Return what a search for half of the parameters takes, in processor seconds, and its second looks of that."""
    space = PruningSpace(model, (x[:2],))
    constraint = SparsityConstraint(space, 0.5)
    with torch.no_grad():
        expected = model(x)
    spent: list[float] = []
    difference = Evaluator.difference

    def timed(self: Evaluator, *args: Any) -> str:
        start = time.process_time()
        found = difference(self, *args)
        spent.append(time.process_time() - start)
        return found

    def likeness(network: nn.Module) -> float:
        with torch.no_grad():
            return -float((network(x) - expected).square().mean())

    proposing: optuna.samplers.BaseSampler = SLSQPSampler(constraint)
    if sampler == "TPE":
        proposing = ProjectedSampler(optuna.samplers.TPESampler(seed=0), constraint)
    study = optuna.create_study(direction="maximize", sampler=proposing)
    with mock.patch.object(Evaluator, "difference", timed):
        start = time.process_time()
        study.optimize(PruningObjective(space, likeness, constraint), n_trials=trials)
        whole = time.process_time() - start
    return {"trials": len(study.trials), "looks": len(spent), "search_s": whole, "looks_s": sum(spent)}


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing, 200 trials each; or a few."""
    warnings.filterwarnings("ignore", category=SoftPruneWarning)
    torch.manual_seed(0)
    count = 20 if quick else 1000
    networks: dict[str, tuple[nn.Module, Tensor]] = {
        "fully connected autoencoder": (randomise(fully_connected()), torch.rand(count, 784)),
        "residual classifier": (randomise(classifier(8)), torch.rand(count, 1, 8, 8)),
        "vision transformer": (randomise(VisionTransformer()), torch.rand(count, 1, 8, 8)),
    }
    for name, (model, x) in tqdm(networks.items()):
        for sampler in SAMPLERS:
            if (name, sampler) not in rows:
                row = searched(model.eval(), x, sampler, 8 if quick else 200)
                share = f"{row['looks_s'] / row['search_s']:.2%}"
                seconds = {key: round(row[key], 2) for key in ("search_s", "looks_s")}
                rows.keep({"network": name, "sampler": sampler, **row, **seconds, "share": share})


if __name__ == "__main__":
    command(measure, markdown, columns=COLUMNS, keys=2, file=FILE, quick="eight trials of few images")
