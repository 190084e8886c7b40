"""Shrink an autoencoder of handwritten digits by 50 % and 70 %; run me again: the search goes on where it stopped."""

import math
from collections import OrderedDict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optuna_softprune import ActivationEnergy, Calibration, PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import ProjectedSampler, baselines
from optuna_softprune.storage import open_storage, recover, remaining_trials


def psnr(model: nn.Module, images: Tensor) -> float:
    """Return the peak signal-to-noise ratio of reconstructions, in dB."""
    with torch.no_grad():
        return -10 * math.log10((model(images) - images).square().mean().item())


def autoencoder() -> nn.Sequential:
    """Return a convolutional autoencoder with a code of 16 numbers."""
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 16)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32 * 16), nn.ReLU(), nn.Unflatten(1, (32, 4, 4))),
        *(nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()),
    )
    return nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder))


torch.manual_seed(0)
digits = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
training, validation, held_out = digits[:1200], digits[1200:1500], digits[1500:]
model, weights = autoencoder(), Path("quickstart.pt")
if weights.exists():
    model.load_state_dict(torch.load(weights))
else:
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for batch in (batch for _ in range(60) for batch in torch.split(training[torch.randperm(1200)], 64)):
        optimiser.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimiser.step()
    torch.save(model.state_dict(), weights)
space = PruningSpace(model.eval(), (training[:1],), importance=ActivationEnergy(Calibration([(training[:256],)])))
print(space, f"\n\n{'network':24}{'sparsity':>9}{'parameters':>12}{'PSNR in dB':>12}   (held-out images)")
print(f"{'dense':24}{0:9.3f}{sum(p.numel() for p in model.parameters()):12,}{psnr(model, held_out):12.2f}")

optuna.logging.set_verbosity(optuna.logging.WARNING)
rows = [held_out[:12], model(held_out[:12]).detach()]
for target in (0.5, 0.7):
    constraint = SparsityConstraint(space, target)
    objective = PruningObjective(space, lambda network: psnr(network, validation), constraint)
    sampler = ProjectedSampler(optuna.samplers.TPESampler(seed=0), constraint)
    study = optuna.create_study(
        storage=open_storage("quickstart.journal"), study_name=f"digits {target:.0%}", sampler=sampler,
        direction="maximize", load_if_exists=True,
    )  # fmt: skip
    recover(study)
    study.optimize(objective, n_trials=remaining_trials(study, 300), show_progress_bar=True)
    candidates = {**baselines(space, constraint), "found": space.coefficients(study.best_trial.params)}
    for name, c in candidates.items():
        quality = psnr(space.prune(c), held_out)
        print(f"{target:.0%} {name:20}{space.sparsity(c):9.3f}{space.parameters(c):12,}{quality:12.2f}")
    small = objective.best_model(study)
    torch.save(small, f"quickstart-{target}.pt")
    rows += [network(held_out[:12]).detach() for network in (space.prune(candidates["uniform"]), small)]
tiles = torch.cat([torch.cat([*nn.functional.pad(images[:, 0], (1, 1, 1, 1))], 1) for images in rows])
plt.imsave("quickstart.png", np.kron(tiles.clamp(0, 1), np.ones((8, 8))), cmap="gray")
print("quickstart.png: originals, dense, 50 % uniform, 50 % found, 70 % uniform, 70 % found")
