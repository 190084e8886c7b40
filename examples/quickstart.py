"""Shrink an autoencoder of handwritten digits by 50 % and 70 %; stop me and run me again: I go on where I was."""

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import trange

import optuna_softprune as sp
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines


def psnr(model: nn.Module, images: Tensor) -> float:
    """Return the peak signal-to-noise ratio of reconstructions, in dB."""
    with torch.no_grad():
        return -10 * math.log10((model(images) - images).square().mean().item())


torch.set_num_threads(1)  # the fastest for so small a network
torch.manual_seed(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)
digits = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
training, validation, held_out = digits[:1200], digits[1200:1500], digits[1500:]
first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
linear = [nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 16)]  # a code of 16 numbers
encoder = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *linear)
decoder = nn.Sequential(
    *(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32 * 16), nn.ReLU(), nn.Unflatten(1, (32, 4, 4))),
    *(nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()),
)
model, weights, epochs = nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder)), Path("quickstart.pt"), 60
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
state: list[Any] = torch.load(weights) if weights.exists() else [0, model.state_dict(), optimiser.state_dict()]
model.load_state_dict(state[1])
optimiser.load_state_dict(state[2])
print(f"1. Train an autoencoder of digits: {epochs - state[0]} of {epochs} epochs left, kept in {weights}", flush=True)
for epoch in trange(state[0], epochs, desc="epochs"):
    for batch in torch.split(training[torch.randperm(1200, generator=torch.Generator().manual_seed(epoch))], 64):
        optimiser.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimiser.step()
    torch.save([epoch + 1, model.state_dict(), optimiser.state_dict()], "quickstart.part")
    Path("quickstart.part").replace(weights)  # whole, whenever this is stopped
print("2. Find what can be removed, and what makes up for it", flush=True)
calibration = sp.Calibration([(training[:512],)])
order, refit = sp.ReconstructionError(calibration), sp.LeastSquares(calibration)
space = sp.PruningSpace(model.eval(), (training[:1],), importance=order, reconstruction=refit)
print(space, flush=True)
networks: dict[str, nn.Module] = {"digits": nn.Identity(), "dense": model}
for step, target in enumerate((0.5, 0.7), 3):
    constraint = sp.SparsityConstraint(space, target)
    objective = sp.PruningObjective(space, lambda network: psnr(network, validation), constraint)
    storage, sampler = sp.open_storage("quickstart.journal"), FiniteDifferenceSampler(constraint)
    study = optuna.create_study(
        storage=storage, study_name=f"digits {target:.0%}", sampler=sampler, direction="maximize", load_if_exists=True
    )
    sp.recover(study)
    left = sp.remaining_trials(study, 200)
    print(f"{step}. Remove {target:.0%}: {left} of 200 trials left" + ", nothing to do" * (left == 0), flush=True)
    study.optimize(objective, n_trials=left, show_progress_bar=left > 0)
    networks |= {f"{target:.0%} {name}": space.prune(c) for name, c in baselines(space, constraint).items()}
    networks[f"{target:.0%} found"] = small = objective.best_model(study)
    torch.save(small.state_dict(), f"quickstart-{target}.pt")
print(f"\n{'network':24}{'sparsity':>9}{'parameters':>12}{'PSNR in dB':>12}   (held-out images)")
for name, network in list(networks.items())[1:]:
    size, dense = (sum(p.numel() for p in each.parameters()) for each in (network, model))
    print(f"{name:24}{1 - size / dense:9.3f}{size:12,}{psnr(network, held_out):12.2f}")
rows = {name: each for name, each in networks.items() if not name.endswith(("norm", "nearest", "random"))}
figure, axes = plt.subplots(len(rows), figsize=(9, 5), layout="constrained", subplot_kw={"xticks": [], "yticks": []})
for axis, (name, network) in zip(axes, rows.items(), strict=True):
    axis.imshow(torch.cat([*network(held_out[:14]).detach()[:, 0]], 1), cmap="gray", vmin=0, vmax=1)
    axis.set_ylabel(name.replace("%", " % removed,"), rotation=0, ha="right", va="center")
figure.savefig("quickstart.png", dpi=120)
print("\nquickstart.png shows what they make of digits; weights are in quickstart-0.5.pt and quickstart-0.7.pt")
