"""How long does it take to find and verify the groups of torchvision's families?"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from tqdm import tqdm

from optuna_softprune import PruningSpace
from optuna_softprune.graph import discover, export, working_copy
from optuna_softprune.removal import Verifier, prove
from optuna_softprune.testing import randomise
from studies.command import command
from studies.rows import Rows, markdown

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ["model", "groups", "units", "removable", "error", "export_s", "discovery_s", "discovery/export"]
COLUMNS += ["forward64_s", "verification_s", "verification/forward64"]
REPEATS = 1
FAMILIES = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "densenet121",
    "efficientnet_b0",
    "vgg11_bn",
    "regnet_y_400mf",
    "googlenet",
    "shufflenet_v2_x0_5",
)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median CPU time of `function`, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def measure(name: str, side: int, repeats: int) -> dict[str, Any]:
    """Return the row of one family."""
    settings: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = randomise(torchvision.models.get_model(name, weights=None, **settings))
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    working = working_copy(model, torch.float64)

    def forward() -> None:
        with torch.no_grad():
            working(x.double())

    exported, _ = export(model, (x,), {}, torch.float64)
    network = discover(model, exported, {})
    export_s = seconds(lambda: torch.export.export(working, (x.double(),)), repeats)
    discovery_s = seconds(lambda: discover(model, exported, {}), repeats)
    forward_s = seconds(forward, 3 * repeats)
    verification_s = seconds(lambda: prove(Verifier(working, (x,), {}), network), repeats)
    space = PruningSpace(model, (x,))
    most = {group: found.high for group, found in space.distributions.items()}
    return {
        "model": name,
        "groups": len(space.groups),
        "units": sum(group.size for group in space.groups),
        "removable": round(space.sparsity(most), 4),
        "error": f"{space.verify({g: found.high / 2 for g, found in space.distributions.items()}):.0e}",
        "export_s": round(export_s, 3),
        "discovery_s": round(discovery_s, 3),
        "discovery/export": round(discovery_s / export_s, 2),
        "forward64_s": round(forward_s, 4),
        "verification_s": round(verification_s, 3),
        "verification/forward64": round(verification_s / forward_s, 1),
    }


def measure_all(rows: Rows, quick: bool) -> None:
    """Measure what is missing: all families, or two on small images."""
    for name in tqdm(FAMILIES[:2] if quick else FAMILIES):
        if (name,) not in rows:
            rows.keep(measure(name, 64 if quick else 224, 1 if quick else REPEATS))


if __name__ == "__main__":
    quick = "two families, images of 64 x 64, one repeat"
    file = Path(__file__).parent / "results.csv"
    command(measure_all, markdown, columns=COLUMNS, keys=1, file=file, quick=quick)
