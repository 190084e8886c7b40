"""Vision transformers of scikit-learn's digits: refitted against not, at targets that leave some heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from optuna_softprune import (
    ActivationEnergy,
    Calibration,
    LeastSquares,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
)
from optuna_softprune.samplers import baselines
from studies import classifiers
from studies.searching import HEURISTICS
from studies.training import kept

if TYPE_CHECKING:
    from optuna_softprune import Importance
    from studies.rows import Rows

NETWORK = "vision transformer of digits"
TRAININGS, TARGETS = 3, (0.2, 0.4)
STEPS, RATE, RIDGE = 1500, 3e-3, 1e-3


class Layer(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and with what goes past it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, tokens, width) to as many."""
        q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, self.heads, self.each).permute(2, 0, 3, 1, 4).unbind()
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class VisionTransformer(nn.Module):
    """Patches of 2 x 2 pixels, four layers of four heads, the mean of all tokens, ten classes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(1, width, 2, 2), nn.Parameter(0.02 * torch.randn(16, width))
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(4)))
        self.norm, self.classify = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        y: Tensor = self.classify(self.norm(self.layers(tokens)).mean(1))
        return y


def trained(seed: int, data: classifiers.Digits, steps: int) -> nn.Module:
    """Return a network trained with Adam, read from its file if it was trained before."""
    torch.manual_seed(seed)
    name = f"vision transformer {seed} of {steps} steps"
    return kept(VisionTransformer(), name, lambda model: classifiers.train(model, data.training, steps, RATE))


def of_transformers(rows: Rows, quick: bool) -> None:
    """Compare all trainings: coefficients of the heuristics, cut and refitted, in both orders of units."""
    data = classifiers.digits()
    for seed in tqdm(range(1 if quick else TRAININGS), desc="vision transformers"):
        if any((*key(seed, target), "best heuristic, refitted", "reconstruction") not in rows for target in TARGETS):
            of_transformer(rows, data, seed, 20 if quick else STEPS)


def key(seed: int, target: float) -> tuple[str, str, int, float]:
    """Return what a network's rows at a target have in common."""
    return "transformer", NETWORK, seed, target


def of_transformer(rows: Rows, data: classifiers.Digits, seed: int, steps: int) -> None:
    """Compare refitted and cut networks of one training."""
    model = trained(seed, data, steps).eval()
    calibration = Calibration([(data.calibration,)])
    orders: dict[str, Importance] = {
        "activation energy": ActivationEnergy(calibration),
        "reconstruction": ReconstructionError(calibration),
    }

    def keep(target: float, method: str, order: str, small: nn.Module, sparsity: float) -> None:
        found = {name: classifiers.accuracy(small, getattr(data, name)) for name in ("validation", "test")}
        names = dict(zip(("part", "network", "seed", "target"), key(seed, target), strict=True))
        rows.keep({**names, "method": method, "order": order, "sparsity": sparsity, **found})

    for target in TARGETS:
        keep(target, "dense", "", model, 0.0)
    for order, importance in orders.items():
        for method, refit in (("", None), (", refitted", LeastSquares(calibration, ridge=RIDGE))):
            space = PruningSpace(model, (data.calibration[:2],), importance=importance, reconstruction=refit)
            for target in TARGETS:
                found = baselines(space, SparsityConstraint(space, target, tolerance=0.01))
                smaller = {name: (space.prune(found[name]), space.sparsity(found[name])) for name in HEURISTICS}
                keep(target, f"uniform{method}", order, *smaller["uniform"])
                best = max(smaller.values(), key=lambda pair: classifiers.accuracy(pair[0], data.validation))
                keep(target, f"best heuristic{method}", order, *best)
