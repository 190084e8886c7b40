"""Shrink a neural controller that swings a pendulum up: the metric is a noisy episode reward, without a gradient."""

import numpy as np
import optuna
import torch
from torch import Tensor, nn

from optuna_softprune import ActivationEnergy, Calibration, PruningObjective, PruningSpace, Requirement
from optuna_softprune.storage import open_storage, recover, remaining_trials

STEPS, STEP_S, TORQUE, EPISODES, SHARE = 200, 0.05, 2.0, 64, 0.95
random = np.random.default_rng(0)
States = list[tuple[np.ndarray, np.ndarray]]  # angles, 0 at the top, and angular speeds


def teacher(angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Return the torque that brings in the energy that is missing; near the top, that of a spring and a damper."""
    missing = 15 * (1 - np.cos(angle)) - speed**2 / 2
    swing, hold = speed * missing + 1e-3, -10 * np.sin(angle) - 3 * speed
    torque: np.ndarray = np.where((np.cos(angle) > 0.92) & (np.abs(speed) < 2), hold, swing)
    return torque.clip(-TORQUE, TORQUE)


def observed(angle: np.ndarray, speed: np.ndarray) -> Tensor:
    """Return what the controller sees (N, 3): cosine and sine of the angle, and the angular speed."""
    return torch.tensor(np.stack([np.cos(angle), np.sin(angle), speed / 8], 1), dtype=torch.float32)


def reward(model: nn.Module, episodes: int = EPISODES, visited: States | None = None) -> float:
    """Return how upright the pendulum is, 0 to 1, the mean over ten seconds from random states, with random gusts."""
    angle, speed = random.uniform(-np.pi, np.pi, episodes), random.uniform(-1, 1, episodes)
    upright = np.zeros(episodes)
    for _ in range(STEPS):
        if visited is not None:
            visited.append((angle, speed))
        with torch.no_grad():
            torque = TORQUE * model(observed(angle, speed)).numpy()[:, 0]
        speed = np.clip(speed + (15 * np.sin(angle) + 3 * torque + random.normal(0, 0.5, episodes)) * STEP_S, -8, 8)
        angle = angle + speed * STEP_S
        upright += (1 + np.cos(angle)) / 2 / STEPS
    return float(upright.mean())


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1), nn.Tanh())
optimiser, visited = torch.optim.Adam(model.parameters(), lr=3e-3), States()
for _ in range(12):  # the controller learns what its teacher would do where the controller itself gets to
    reward(model, visited=visited)
    angle, speed = np.concatenate(visited, 1)
    states, torques = observed(angle, speed), torch.tensor(teacher(angle, speed) / TORQUE, dtype=torch.float32)
    for rows in torch.randint(len(states), (400, 512)):
        optimiser.zero_grad()
        (model(states[rows])[:, 0] - torques[rows]).square().mean().backward()
        optimiser.step()
dense = reward(model, 2000)
print(f"dense: {sum(p.numel() for p in model.parameters())} parameters, reward {dense:.3f}")

optuna.logging.set_verbosity(optuna.logging.WARNING)
space = PruningSpace(model.eval(), (states[:2],), importance=ActivationEnergy(Calibration([(states[::50],)])))
objective = PruningObjective(
    space,
    lambda controller: {"reward": reward(controller)},
    objectives=("reward", "parameters"),
    directions=("maximize", "minimize"),
    requirements=(Requirement("reward", at_least=SHARE * dense),),
    reuse=False,  # the metric is noisy: the same candidate may be asked again
    cache_bytes=0,  # and no two of its inputs are the same
)
study = optuna.create_study(storage=open_storage("controller.journal"), study_name="pendulum",
    sampler=optuna.samplers.TPESampler(seed=0), directions=["maximize", "minimize"], load_if_exists=True)  # fmt: skip
recover(study)
study.optimize(objective, n_trials=remaining_trials(study, 300), show_progress_bar=True)

print("parameters   reward in the search   reward in 2,000 other episodes   (networks that no other beats in both)")
front = sorted(study.best_trials, key=lambda trial: trial.values[1])
fresh = [reward(space.prune(space.coefficients(trial.params)), 2000) for trial in front]
for trial, again in zip(front, fresh, strict=True):
    print(f"{trial.values[1]:10.0f}{trial.values[0]:23.3f}{again:32.3f}")
size, kept = next((t.values[1], again) for t, again in zip(front, fresh, strict=True) if again >= SHARE * dense)
print(f"{size:.0f} parameters keep {kept / dense:.1%} of the dense controller's reward")
