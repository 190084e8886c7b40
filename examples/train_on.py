"""Remove 80 % of a classifier's parameters, and train what is left on with plain PyTorch: a module like any other."""

import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import optuna_softprune as sp
from optuna_softprune.samplers import FiniteDifferenceSampler

torch.set_num_threads(1)  # the fastest for so small a network
torch.manual_seed(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)
IMAGES = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
LABELS = torch.tensor(load_digits().target)


def convolution(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
    """Return a convolution with batch norm."""
    return [nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


def train(model: nn.Module, epochs: int, learning_rate: float) -> None:
    """Train in place on the first 1,200 digits, as one trains anything."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(1200).split(64):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(IMAGES[rows]), LABELS[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()


def right(model: nn.Module, rows: slice) -> tuple[float, float]:
    """Return accuracy and minus the cross entropy, which tells apart what is right equally often."""
    with torch.no_grad():
        logits: Tensor = model(IMAGES[rows])
    accuracy = (logits.argmax(1) == LABELS[rows]).float().mean().item()
    return accuracy, -nn.functional.cross_entropy(logits, LABELS[rows]).item()


head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)]
model = nn.Sequential(*convolution(1, 24, 1), *convolution(24, 48, 2), *convolution(48, 48, 1), *head)
train(model, epochs=6, learning_rate=5e-3)

calibration = sp.Calibration([(IMAGES[:512],)])
order, refit = sp.ReconstructionError(calibration), sp.LeastSquares(calibration)
space = sp.PruningSpace(model, (IMAGES[:1],), importance=order, reconstruction=refit)
constraint = sp.SparsityConstraint(space, 0.8)
objective = sp.PruningObjective(space, lambda network: right(network, slice(1200, 1500))[1], constraint)
study = optuna.create_study(direction="maximize", sampler=FiniteDifferenceSampler(constraint))
study.optimize(objective, n_trials=60)
small = objective.best_model(study)
before = right(small, slice(1500, None))[0]
train(small, epochs=8, learning_rate=1e-3)  # a fifth of the rate that the dense network was trained with

sp.save_pruned(small, "trained-on.safetensors")
print(sp.summary(model, small, (IMAGES[:1],)))
dense, after = (right(network, slice(1500, None))[0] for network in (model, small))
print(f"accuracy on held-out digits: dense {dense:.3f}, 80 % removed {before:.3f}, trained on {after:.3f}")
