"""Shrink an autoencoder of handwritten digits by 50 % and 70 %; stop me and run me again: I go on where I was."""

import math
from collections import OrderedDict
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import trange

import optuna_softprune as sp
from optuna_softprune.samplers import FiniteDifferenceSampler, baselines

torch.set_num_threads(1)  # the fastest for so small a network
torch.manual_seed(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)
training, validation, held_out = torch.tensor(load_digits().images).float()[:, None].div(16).tensor_split((1200, 1500))


def psnr(model: nn.Module, images: Tensor = validation) -> float:
    """Return the peak signal-to-noise ratio of reconstructions, in dB."""
    with torch.no_grad():
        return -10 * math.log10((model(images) - images).square().mean().item())


first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
linear = [nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 16)]  # a code of 16 numbers
encoder = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *linear)
decoder = nn.Sequential(
    *(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32 * 16), nn.ReLU(), nn.Unflatten(1, (32, 4, 4))),
    *(nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()),
)
model, weights, epochs = nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder)), Path("dense.safetensors"), 60
state = load_file(weights) if weights.exists() else {**model.state_dict(), "epoch": torch.tensor(0)}
done = int(state.pop("epoch"))
model.load_state_dict(state)
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
print(f"1. Train an autoencoder of digits: {epochs - done} of {epochs} epochs left, kept in {weights}", flush=True)
for epoch in trange(done, epochs, desc="epochs"):
    for batch in torch.split(training[torch.randperm(1200, generator=torch.Generator().manual_seed(epoch))], 64):
        optimiser.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimiser.step()
    save_file({**model.state_dict(), "epoch": torch.tensor(epoch + 1)}, weights)  # whole, whenever this is stopped
print("2. Find what can be removed, and what makes up for it", flush=True)
calibration = sp.Calibration([(training[:512],)])
order, refit = sp.ReconstructionError(calibration), sp.LeastSquares(calibration)
space = sp.PruningSpace(model.eval(), (training[:1],), importance=order, reconstruction=refit)
print(space, flush=True)
networks: dict[str, nn.Module] = {"digits": nn.Identity(), "dense": model}
for step, name, target in ((3, "50%", 0.5), (4, "70%", 0.7)):
    constraint = sp.SparsityConstraint(space, target)
    objective = sp.PruningObjective(space, psnr, constraint)
    db, sampler = sp.open_storage("quickstart.journal"), FiniteDifferenceSampler(constraint)
    study = optuna.create_study(storage=db, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True)
    sp.recover(study)
    for heuristic, c in (heuristics := baselines(space, constraint)).items():  # what is found is at least as good
        study.enqueue_trial(c, user_attrs={"softprune:role": heuristic}, skip_if_exists=True)
    left = sp.remaining_trials(study, 200)
    print(f"{step}. Remove {name}: {left} of 200 trials left" + ", nothing to do" * (left == 0), flush=True)
    study.optimize(objective, n_trials=left, show_progress_bar=left > 0)
    networks |= {f"{name} {each}": space.prune(c) for each, c in heuristics.items()}
    sp.save_pruned(objective.best_model(study), f"digits-{target}.safetensors")
    networks[f"{name} found"] = sp.load_pruned(f"digits-{target}.safetensors", model)  # into any dense one, anywhere
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
print("\nquickstart.png shows them; digits-0.5.safetensors and digits-0.7.safetensors are what was found")
