"""Builds search spaces of networks whose names come on the standard input, and says what each took.

It runs with any version of the package on the path, so it asks nothing of it but `PruningSpace` and what is counted.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from optuna_softprune import PruningSpace
from optuna_softprune.removal import Verifier
from optuna_softprune.testing import randomise


class NumberedSplit(nn.Module):
    """A residual block whose code cuts channels into pieces of a stated width, as in Res2Net."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.read, self.norm = nn.Conv2d(channels, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.parts = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.made = nn.Conv2d(4 * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the shape of `x`."""
        first, *pieces = torch.split(F.relu(self.norm(self.read(x))), self.width, 1)
        found = [first]
        for part, piece in zip(self.parts, pieces, strict=True):
            found.append(F.relu(part(found[-1] + piece)))
        y: Tensor = x + self.made(torch.cat(found, 1))
        return y


def network(name: str) -> nn.Module:
    """Return a network of torchvision, or so many blocks that split by number."""
    torch.manual_seed(0)
    if name.startswith("split_by_number_"):
        blocks = (NumberedSplit(32, 6) for _ in range(int(name.rsplit("_", 1)[1])))
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
        )
    settings: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    made: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    return made


def built(name: str, side: int) -> dict[str, Any]:
    """Return CPU seconds, comparisons, groups and removable share of a search space."""
    model = randomise(network(name))
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    comparisons, compare = 0, Verifier.compare

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal comparisons
        comparisons += 1
        return compare(*args, **kwargs)

    Verifier.compare = counted  # type: ignore[method-assign]
    start = time.process_time()
    space = PruningSpace(model, (x,))
    seconds = time.process_time() - start
    Verifier.compare = compare  # type: ignore[method-assign]
    removable = space.sparsity({group: found.high for group, found in space.distributions.items()})
    return {"cpu_s": seconds, "comparisons": comparisons, "groups": len(space.groups), "removable": removable}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(built(*json.loads(line))), flush=True)
