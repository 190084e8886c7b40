"""What are widths worth that are multiples of 8, 16 or 32? The same size, by ONNX Runtime and by PyTorch."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from tqdm import tqdm

from optuna_softprune import PruningSpace, SparsityConstraint
from studies.command import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from studies.rows import Rows

    Runs = Callable[[], Any]

FILE = Path(__file__).parent / "results.csv"
KEYS = 4
COLUMNS = ["network", "runtime", "round_to", "draw", "sparsity", "macs", "cpu_ms", "dense_macs", "dense_cpu_ms"]
MULTIPLES, DRAWS = (1, 8, 16, 32), 3
SPARSITY, SPREAD = 0.6, 0.15
ROUNDS, PASSES = 9, 5


def convolutional() -> tuple[nn.Module, Tensor]:
    """Return a classifier of images with batch norm, and a batch of 8."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, 2, 1)]
    for _ in range(4):
        layers += [nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 3, 1, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers), torch.randn(8, 3, 32, 32)


def autoencoder() -> tuple[nn.Module, Tensor]:
    """Return a fully connected autoencoder, and a batch of 64."""
    widths = [784, 512, 512, 128, 512, 512, 784]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid()), torch.randn(64, 784)


def transformer() -> tuple[nn.Module, Tensor]:
    """Return three encoder layers with hidden layers of 512, and a batch of 8 sequences of 32."""
    layers = {str(i): nn.TransformerEncoderLayer(128, 4, 512, batch_first=True) for i in range(3)}
    return nn.Sequential(OrderedDict(layers)), torch.randn(8, 32, 128)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolutional classifier": convolutional,
    "fully connected autoencoder": autoencoder,
    "transformer": transformer,
}


def in_onnx_runtime(network: nn.Module, x: Tensor, file: Path) -> Runs:
    """Return a pass of a network in ONNX Runtime, with one thread."""
    torch.onnx.export(network, (x,), file, dynamo=True, input_names=["x"], external_data=False, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session, inputs = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]), {"x": x.numpy()}
    return lambda: session.run(None, inputs)


def in_torch(network: nn.Module, x: Tensor) -> Runs:
    """Return a pass of a network in PyTorch."""

    def run() -> Tensor:
        with torch.no_grad():
            y: Tensor = network(x)
        return y

    return run


def cpu_ms(runs: list[Runs]) -> list[float]:
    """Return the processor time of a pass of each, in milliseconds: medians over rounds that take them in turns."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + ROUNDS):
        for run, mine in zip(runs, found, strict=True):
            run()
            begin = time.process_time()
            for _ in range(PASSES):
                run()
            mine.append(1e3 * (time.process_time() - begin) / PASSES)
    return [statistics.median(mine[1:]) for mine in found]


def of_draw(rows: Rows, name: str, draw: int, multiples: tuple[int, ...]) -> None:
    """Measure networks near the same coefficients, and of the same size, on the lattices of all multiples."""
    if all(
        (name, runtime, multiple, draw) in rows for runtime in ("ONNX Runtime", "PyTorch") for multiple in multiples
    ):
        return
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    model.eval()
    spaces = {multiple: PruningSpace(model, (x,), round_to=multiple) for multiple in multiples}
    random, share = np.random.default_rng(draw), 1 - (1 - SPARSITY) ** 0.5  # both sides of a matrix shrink
    wanted = {group.name: share + SPREAD * random.uniform(-1, 1) for group in spaces[1].groups}
    found: dict[int, dict[str, float]] = {}
    size: float | None = None
    for multiple in sorted(multiples, reverse=True):  # the coarsest lattice says what the size is
        space = spaces[multiple]
        near = np.clip([wanted[group.name] for group in space.groups], 0, space.lattice.highest)
        if size is not None:
            near = SparsityConstraint(space, size, tolerance=0.01).project(near)
        found[multiple] = space.snap(space.named(near))
        size = size or space.sparsity(found[multiple])
    networks = [model, *(spaces[multiple].prune(found[multiple]).eval() for multiple in multiples)]
    with tempfile.TemporaryDirectory() as folder:
        runtimes = {
            "ONNX Runtime": [in_onnx_runtime(each, x, Path(folder) / f"{i}.onnx") for i, each in enumerate(networks)],
            "PyTorch": [in_torch(each, x) for each in networks],
        }
        for runtime, runs in runtimes.items():
            dense, *times = cpu_ms(runs)
            for multiple, took in zip(multiples, times, strict=True):
                space, c = spaces[multiple], found[multiple]
                key = {"network": name, "runtime": runtime, "round_to": multiple, "draw": draw}
                sizes = {"sparsity": space.sparsity(c), "macs": space.macs(c)}
                whole = {"dense_macs": space.macs(dict.fromkeys(c, 0.0)), "dense_cpu_ms": dense}
                rows.keep({**key, **sizes, "cpu_ms": took, **whole})


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing."""
    if quick:
        of_draw(rows, "fully connected autoencoder", 0, (1, 8))
        return
    for name, draw in tqdm([(name, draw) for name in NETWORKS for draw in range(DRAWS)]):
        of_draw(rows, name, draw, MULTIPLES)


def tables(rows: Rows) -> list[str]:
    """Return the table in Markdown: medians over draws."""
    head = ["network", "runtime", "round_to", "parameters removed", "dense / small, MACs", "dense / small, time"]
    lines = [f"| {' | '.join([*head, 'time by that of round_to=1'])} |", "| --- | --- |" + " ---: |" * 5]
    for network, runtime, multiple in dict.fromkeys((r["network"], r["runtime"], r["round_to"]) for r in rows):
        mine = {row["draw"]: row for row in rows.where(network=network, runtime=runtime, round_to=multiple)}
        plain = {row["draw"]: row for row in rows.where(network=network, runtime=runtime, round_to=1)}
        removed = statistics.median(row["sparsity"] for row in mine.values())
        ratios = (
            statistics.median(row["dense_macs"] / row["macs"] for row in mine.values()),
            statistics.median(row["dense_cpu_ms"] / row["cpu_ms"] for row in mine.values()),
            statistics.median(mine[draw]["cpu_ms"] / plain[draw]["cpu_ms"] for draw in mine),
        )
        cells = " | ".join(f"{each:.2f}" for each in (removed, *ratios))
        lines.append(f"| {network} | {runtime} | {multiple} | {cells} |")
    return lines


if __name__ == "__main__":
    command(measure, tables, columns=COLUMNS, keys=KEYS, file=FILE, quick="one small case")
