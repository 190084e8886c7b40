"""A front of quality against milliseconds: which smaller networks are really faster here, and what do they cost?"""

import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import optuna_softprune as sp

torch.set_num_threads(1)  # as many as there will be where the network runs
torch.manual_seed(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)
IMAGES = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
LABELS = torch.tensor(load_digits().target)


def metric(network: nn.Module) -> dict[str, float]:
    """Return minus the cross entropy of held-out digits, accuracy, and the time of a batch of 64."""
    with torch.no_grad():
        logits: Tensor = network(IMAGES[1200:])
    return {
        "quality": -nn.functional.cross_entropy(logits, LABELS[1200:]).item(),
        "accuracy": (logits.argmax(1) == LABELS[1200:]).float().mean().item(),
        "latency_ms": sp.latency_ms(network, (IMAGES[:64],), repetitions=9),
    }


layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
model = nn.Sequential(*layers, nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for rows in (rows for _ in range(15) for rows in torch.randperm(1200).split(64)):  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(IMAGES[rows]), LABELS[rows]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()

calibration = sp.Calibration([(IMAGES[:1200],)])
order, refit = sp.ReconstructionError(calibration), sp.LeastSquares(calibration)
space = sp.PruningSpace(model.eval(), (IMAGES[:64],), importance=order, reconstruction=refit, round_to=8)
objective = sp.PruningObjective(
    space, metric, objectives=("quality", "latency_ms"), directions=("maximize", "minimize")
)
study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=0))
study.enqueue_trial(dict.fromkeys(space.distributions, 0.0))  # the dense network
study.optimize(objective, n_trials=60)

dense = study.trials[0].user_attrs["softprune:candidate"]["metrics"]
print(f"dense: {dense['latency_ms']:.2f} ms, accuracy {dense['accuracy']:.3f}")
front = {tuple(each.user_attrs["softprune:candidate"]["kept"]): each for each in study.best_trials}
for kept, trial in sorted(front.items(), key=lambda item: item[1].values[1]):
    found = trial.user_attrs["softprune:candidate"]["metrics"]
    print(f"{found['latency_ms']:5.2f} ms  accuracy {found['accuracy']:.3f}  units {kept}")
fastest = min(front.values(), key=lambda trial: trial.values[1])
small = space.prune(space.coefficients(fastest.params))  # any of the front is a network
speed = sp.compare(model, small, (IMAGES[:64],)).speedup
print(f"the fastest network of the front is {speed:.1f} times as fast as the dense one")
