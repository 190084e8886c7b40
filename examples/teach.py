"""Shrink an autoencoder without labels, loss or schedule of its training: the dense network teaches the smaller one."""

import math

import torch
from sklearn.datasets import load_digits
from torch import nn

import optuna_softprune as sp
from optuna_softprune.samplers import baselines

torch.set_num_threads(1)  # the fastest for so small a network
torch.manual_seed(0)
IMAGES = torch.tensor(load_digits().data / 16, dtype=torch.float32)


def psnr(network: nn.Module) -> float:
    """Return the peak signal-to-noise ratio of held-out images, in dB."""
    with torch.no_grad():
        return -10 * math.log10((network(IMAGES[1500:]) - IMAGES[1500:]).square().mean().item())


layers = [nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 96), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(96, 64), nn.Sigmoid())
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for batch in (batch for _ in range(60) for batch in torch.split(IMAGES[torch.randperm(1200)], 64)):
    optimizer.zero_grad()
    (model(batch) - batch).square().mean().backward()
    optimizer.step()

calibration = sp.Calibration([(IMAGES[:512],)])  # from here on nothing but unlabelled inputs
order, refit = sp.ReconstructionError(calibration), sp.LeastSquares(calibration)
space = sp.PruningSpace(model.eval(), (IMAGES[:1],), importance=order, reconstruction=refit)
small = space.prune(baselines(space, sp.SparsityConstraint(space, 0.7))["local norm"])
batches = [(batch,) for batch in IMAGES[:1200].split(64)]  # type: ignore[no-untyped-call]
taught = sp.distill(small, model, batches, steps=600, layers=True)
sp.save_pruned(taught, "taught.safetensors")
print(f"PSNR: dense {psnr(model):.2f} dB, 70 % removed {psnr(small):.2f} dB, taught {psnr(taught):.2f} dB")
