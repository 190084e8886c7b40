"""Three workers share one search: stop any of them (Ctrl-C, kill, kill -9), run me again, and what it left is taken up.

On many machines each runs `search` with the address of a database instead of a file: see "Many workers" in the README.
"""

import math
import multiprocessing
import signal
from pathlib import Path

import optuna
import torch
from optuna.trial import TrialState
from sklearn.datasets import load_digits
from torch import nn

import optuna_softprune as sp
from optuna_softprune.samplers import FeasibleGridSampler

STORAGE, NAME, WORKERS = "workers.journal", "digits", 3
IMAGES = torch.tensor(load_digits().data / 16, dtype=torch.float32)


def trained(file: Path) -> nn.Module:
    """Return an autoencoder of digits, trained once."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 48), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(48, 64), nn.Sigmoid())
    if not file.exists():
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for batch in (batch for _ in range(60) for batch in torch.split(IMAGES[torch.randperm(1200)], 64)):
            optimizer.zero_grad()
            (model(batch) - batch).square().mean().backward()
            optimizer.step()
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file))
    return model.eval()


def psnr(model: nn.Module) -> float:
    """Return the peak signal-to-noise ratio of validation images, in dB."""
    with torch.no_grad():
        return -10 * math.log10((model(IMAGES[1200:]) - IMAGES[1200:]).square().mean().item())


def search(worker: int) -> None:
    """Do a share of the search: every worker runs this, and the study in the storage is all that they share."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a worker as Ctrl-C does
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model = trained(Path("workers.pt"))
    calibration = sp.Calibration([(IMAGES[:256],)])
    order, refit = sp.ReconstructionError(calibration), sp.LeastSquares(calibration)
    space = sp.PruningSpace(model, (IMAGES[:1],), importance=order, reconstruction=refit)
    constraint = sp.SparsityConstraint(space, 0.5)
    study = optuna.create_study(
        study_name=NAME,
        storage=sp.open_storage(STORAGE),
        load_if_exists=True,
        direction="maximize",
        sampler=FeasibleGridSampler(space, constraint, levels=6),
    )
    sp.recover(study)
    done: list[int] = []
    study.optimize(sp.PruningObjective(space, psnr, constraint), callbacks=[lambda _, trial: done.append(trial.number)])
    print(f"worker {worker}: {len(done)} trials")


if __name__ == "__main__":
    trained(Path("workers.pt"))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=search, args=(i,)) for i in range(WORKERS)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    study = optuna.load_study(study_name=NAME, storage=sp.open_storage(STORAGE))
    states = [trial.state for trial in study.trials]
    print(f"{states.count(TrialState.COMPLETE)} grid points, best {study.best_value:.2f} dB at {study.best_params}")
