"""The whole method in one file: groups, coefficients, a gradient by finite differences, and nothing hidden.

Pruning has no gradient: a unit is there or it is not. So the slope of the metric is estimated, by pruning a little more
and a little less of one group at a time; the step goes uphill along the surface of equal size.
"""

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from optuna_softprune import ActivationEnergy, Calibration, PruningSpace, SparsityConstraint

TARGET, PROBE, STEPS = 0.5, 0.06, 12

torch.manual_seed(0)
images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
training, validation, held_out = images[:1200], images[1200:1500], images[1500:]
encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 12))
decoder = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())
model = nn.Sequential(encoder, decoder)
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
for batch in (batch for _ in range(80) for batch in torch.split(training[torch.randperm(1200)], 64)):
    optimiser.zero_grad()
    (model(batch) - batch).square().mean().backward()
    optimiser.step()

space = PruningSpace(model.eval(), (training[:1],), importance=ActivationEnergy(Calibration([(training[:256],)])))
constraint = SparsityConstraint(space, TARGET)


def psnr(c: np.ndarray, data: torch.Tensor = validation) -> float:
    """Return the metric of the network that the coefficients (groups,) stand for, in dB."""
    with torch.no_grad():
        small = space.prune(space.named(c))
        return -10 * math.log10((small(data) - data).square().mean().item())


def slope(c: np.ndarray) -> np.ndarray:
    """Return the estimated gradient (groups,) of the metric: central differences, as far as the range allows."""
    estimate = np.zeros(len(c))
    for g in range(len(c)):
        more, less = c.copy(), c.copy()
        more[g] = min(c[g] + PROBE, constraint.highest[g])
        less[g] = max(c[g] - PROBE, 0)
        estimate[g] = (psnr(space.snap(more)) - psnr(space.snap(less))) / (more[g] - less[g])
    return estimate


best = start = constraint.project(TARGET * constraint.highest)
rate = 0.2
for step in range(STEPS):
    uphill, normal = slope(best), constraint.gradient(best)
    along = uphill - normal * (uphill @ normal) / (normal @ normal)  # what is left keeps the size
    moved = constraint.project(np.clip(best + rate * along / np.abs(along).max(), 0, constraint.highest))
    if psnr(moved) > psnr(best):
        best = moved
    else:
        rate /= 2
    print(f"step {step + 1:2}: {psnr(best):.2f} dB on validation images, sparsity {space.sparsity(best):.3f}")
print({name: round(value, 2) for name, value in space.named(best).items()})
print(f"held-out images: uniform {psnr(start, held_out):.2f} dB, found {psnr(best, held_out):.2f} dB")
