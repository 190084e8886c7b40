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
from safetensors.torch import load_model, save_model
from sklearn.datasets import load_digits
from torch import nn

import optuna_softprune as sp
from optuna_softprune.samplers import FeasibleGridSampler

DENSE, SMALL, STORAGE, NAME = Path("dense.safetensors"), Path("small.safetensors"), "workers.journal", "digits"
optuna.logging.set_verbosity(optuna.logging.WARNING)
IMAGES = torch.tensor(load_digits().data / 16, dtype=torch.float32)


def trained() -> nn.Module:
    """Return an autoencoder of digits, trained once."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 48), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(48, 64), nn.Sigmoid())
    if not DENSE.exists():
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for batch in (batch for _ in range(60) for batch in torch.split(IMAGES[torch.randperm(1200)], 64)):
            optimizer.zero_grad()
            (model(batch) - batch).square().mean().backward()
            optimizer.step()
        save_model(model, str(DENSE))
    load_model(model, DENSE)
    return model.eval()


def psnr(model: nn.Module) -> float:
    """Return the peak signal-to-noise ratio of validation images, in dB."""
    with torch.no_grad():
        return -10 * math.log10((model(IMAGES[1200:]) - IMAGES[1200:]).square().mean().item())


def halved() -> tuple[sp.PruningSpace, sp.SparsityConstraint]:
    """Return what is searched: networks with half of the parameters."""
    data = sp.Calibration([(IMAGES[:256],)])
    order, refit = sp.ReconstructionError(data), sp.LeastSquares(data)
    space = sp.PruningSpace(trained(), (IMAGES[:1],), importance=order, reconstruction=refit)
    return space, sp.SparsityConstraint(space, 0.5)


def search(worker: int) -> None:
    """Do a share of the search: every worker runs this, and the study in the storage is all that they share."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a worker as Ctrl-C does
    torch.set_num_threads(1)
    space, constraint = halved()
    file, grid = sp.open_storage(STORAGE), FeasibleGridSampler(space, constraint, levels=6)
    study = optuna.create_study(storage=file, study_name=NAME, load_if_exists=True, direction="maximize", sampler=grid)
    sp.recover(study)
    study.optimize(sp.PruningObjective(space, psnr, constraint))
    print(f"worker {worker}: nothing is left to do")


if __name__ == "__main__":
    trained()
    workers = [multiprocessing.get_context("spawn").Process(target=search, args=(i,)) for i in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    study = optuna.load_study(study_name=NAME, storage=sp.open_storage(STORAGE))
    space, constraint = halved()
    sp.save_pruned(sp.PruningObjective(space, psnr, constraint).best_model(study), SMALL)
    points = study.get_trials(states=(TrialState.COMPLETE,))
    print(f"{len(points)} grid points, the best is in {SMALL}: {study.best_value:.2f} dB at {study.best_params}")
