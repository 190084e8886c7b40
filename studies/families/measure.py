"""Measure one network, whose name is the argument, and print what was found as a line of JSON."""

from __future__ import annotations

import copy
import json
import re
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from optuna_softprune import PruningSpace, SoftPruneError, load_pruned, save_pruned
from optuna_softprune.testing import randomise
from studies.families.networks import NETWORKS, Made

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY, SECONDS = 6 << 30, 300
CANDIDATES = 8
# Larger errors are no rounding, in float64 and in float32.
WRONG = {torch.float64: 1e-9, torch.float32: 1e-3}
# So much more than one rounding of the weights moves a network may the two ways to prune it differ by rounding.
ROUNDINGS = 10
# Whose attentions have one head each, a module of its own that reads what the one before it makes: what is counted is
# windows.
ONE_HEAD = frozenset({"timm/efficientvit_m0"})
OUTPUT, WINDOW = "an output of the network", "the window of"


def made(name: str) -> Made:
    """Return a network with weights in general position."""
    torch.manual_seed(0)
    model, args, kwargs = NETWORKS[name]()
    return Made(randomise(model.float()), args, kwargs)


class Heads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes for every attention of a forward pass how many heads it has, over all windows."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket.__name__)
        rank = args[0].dim() if args and isinstance(args[0], torch.Tensor) else 0
        softmax = name in ("_softmax", "_safe_softmax") and args[1] % rank == rank - 1
        if rank > 2 and (softmax or name.startswith("_scaled_dot_product")):
            self.found.append(int(np.prod(args[0].shape[:-2])))
        return func(*args, **(kwargs or {}))


def heads(model: nn.Module, inputs: Made) -> list[int]:
    """Return the number of heads of every attention."""
    torch.backends.mha.set_fastpath_enabled(False)  # which is one operation for a whole layer
    noted = Heads()
    with torch.no_grad(), noted:
        model(*copy.deepcopy(inputs.args), **copy.deepcopy(inputs.kwargs))
    return noted.found


def outputs(model: nn.Module, inputs: Made) -> list[torch.Tensor]:
    """Return the floating point outputs of a forward pass."""
    args, kwargs = copy.deepcopy((inputs.args, inputs.kwargs))
    found = pytree.tree_leaves(model(*args, **kwargs))
    return [each for each in found if isinstance(each, torch.Tensor) and each.is_floating_point()]


def of_batch(inputs: Made, size: int) -> Made:
    """Return the inputs with so many copies of the example."""

    def several(x: Any) -> Any:
        return x.repeat(size, *[1] * (x.dim() - 1)) if isinstance(x, torch.Tensor) and x.dim() else x

    return Made(inputs.model, *pytree.tree_map(several, (inputs.args, inputs.kwargs)))


def said(run: Callable[[], object]) -> str:
    """Return "ok", or how something fails."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]
    return "ok"


def both(run: Callable[[nn.Module], object], dense: nn.Module, small: nn.Module) -> str:
    """Return "ok", or how something fails on the smaller network, and whether it does on the dense one."""
    found = said(lambda: run(copy.deepcopy(small)))
    if found != "ok" and said(lambda: run(copy.deepcopy(dense))) != "ok":
        return "dense fails"
    return found


def step(model: nn.Module, inputs: Made) -> None:
    """Train one step."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = sum((each.float() ** 2).mean() for each in outputs(model, of_batch(inputs, 2)))
    loss.backward()  # type: ignore[union-attr]
    optimiser.step()
    assert all(torch.isfinite(each).all() for each in model.parameters())


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    """Raise unless two lists of outputs are alike."""
    for got, expected in zip(one, other, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item(), equal_nan=True)


def batches(model: nn.Module, inputs: Made) -> None:
    """Raise unless a batch of three is three times one."""
    model.eval()
    with torch.no_grad():
        three = outputs(model, of_batch(inputs, 3))
        one = outputs(model, inputs)
    same(
        [each.narrow(0, 0, 1) if each.dim() else each for each in three],
        [e.narrow(0, 0, 1) if e.dim() else e for e in one],
    )


def saved(space: PruningSpace, inputs: Made, small: nn.Module) -> None:
    """Raise unless a file of the smaller network gives it again."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_pruned(small, Path(folder) / "small.safetensors")
        again = load_pruned(Path(folder) / "small.safetensors", inputs.model)
        same(outputs(again.eval(), inputs), outputs(small.eval(), inputs))


def exported(model: nn.Module, inputs: Made) -> None:
    """Raise unless the graph of a network computes what it does."""
    model.eval()
    with torch.no_grad():
        program = torch.export.export(model, *copy.deepcopy((inputs.args, inputs.kwargs)))
        same(outputs(program.module(), inputs), outputs(model, inputs))


def rounded(model: nn.Module, inputs: Made) -> float:
    """Return how far outputs move, as a part of what other inputs move them, when weights move in the last digit.

    The inputs are those that `space.verify` takes.
    """
    model = copy.deepcopy(model).double().eval()
    nudged = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in nudged.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.mul_(1 + torch.finfo(torch.float64).eps * noise)

    def returned(network: nn.Module, seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def near(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                return x
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return x.double() + 0.5 * (x.double().std(correction=0).item() or 1.0) * noise

        with torch.no_grad():
            return outputs(network, Made(network, *pytree.tree_map(near, (inputs.args, inputs.kwargs))))

    found = zip(returned(model, 1), returned(nudged, 1), returned(model, 2), strict=True)
    return max(((b - a).abs().max() / (c - a).abs().max()).nan_to_num().item() for a, b, c in found)


def rounding(space: PruningSpace, inputs: Made, some: list[dict[str, float]], errors: list[float]) -> bool:
    """Whether the largest error is what rounding makes of that candidate."""
    error, c = max(zip(errors, some, strict=True), key=lambda pair: pair[0])
    return error <= ROUNDINGS * rounded(space.prune(c), inputs)


def protected_shares(space: PruningSpace, model: nn.Module, small: nn.Module) -> dict[str, float]:
    """Return reason -> share of all parameters that no candidate is without and that it protects, largest first."""
    left = {name: each.numel() for name, each in small.named_parameters()}
    total = sum(each.numel() for each in model.parameters())
    shapes = {name: each.shape for name, each in model.named_parameters()}
    shares: dict[str, float] = {}
    wide = [each for each in space.protected if each.tensor in shapes and shapes[each.tensor][each.axis] > 1]
    for name, reason in {(each.tensor, each.reason): None for each in wide}:
        if not reason.startswith(WINDOW):
            kind = reason.split(" (in `")[0]
            shares[kind] = shares.get(kind, 0.0) + left[name] / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def of_packages(text: str) -> str:
    """Return a text in which files of installed packages begin with their package."""
    return re.sub(r"[^\s`]*/site-packages/", "", text)


def of_the_rest(space: PruningSpace, model: nn.Module, small: nn.Module) -> float | str:
    """Return the share that goes of the parameters outside of embeddings and outputs; empty if there are none."""
    tables = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    last = {each.tensor for each in space.protected if each.reason.startswith(OUTPUT)}
    inside = [name for name, _ in model.named_parameters() if name not in tables | last]
    sizes = [sum(dict(each.named_parameters())[name].numel() for name in inside) for each in (model, small)]
    return 1 - sizes[1] / sizes[0] if sizes[0] else ""


def measured(name: str, *, candidates: int = CANDIDATES) -> dict[str, Any]:
    """Return what there is to say of a network."""
    model, args, kwargs = inputs = made(name)
    with torch.no_grad():
        model(*copy.deepcopy(args), **copy.deepcopy(kwargs))  # what is imported and compiled once
    row: dict[str, Any] = {"network": name, "parameters": sum(each.numel() for each in model.parameters())}
    start = time.process_time()
    said(lambda: torch.export.export(copy.deepcopy(model), args, kwargs))
    row["export_s"] = time.process_time() - start
    start = time.process_time()
    try:
        space = PruningSpace(model, args, example_kwargs=kwargs)
    except SoftPruneError as error:
        return {
            **row,
            "space_s": time.process_time() - start,
            "verdict": of_packages(f"{type(error).__name__}: {error}")[:600],
        }
    row["space_s"] = time.process_time() - start
    highest = {group: each.high for group, each in space.distributions.items()}
    smallest, half = space.prune(highest), space.prune({group: high / 2 for group, high in highest.items()})
    several = [pair for pair in zip(heads(model, inputs), heads(smallest, inputs), strict=True) if pair[0] > 1]
    several = [] if name in ONE_HEAD else several
    random = np.random.default_rng(0)
    some = [{group: high * random.random() for group, high in highest.items()} for _ in range(candidates)]
    errors = [space.verify(c) for c in some]
    dtype = space._network.exported.dtype or torch.float32  # which precision it ran in
    (reason, share), *_ = protected_shares(space, model, smallest).items()
    row |= {
        "groups": len(space.groups),
        "attentions": len(several),
        "heads_go": sum(dense > pruned for dense, pruned in several),
        "removable": space.sparsity(highest),
        "macs_removable": space.sparsity(highest, of="macs"),
        "rest_removable": of_the_rest(space, model, smallest),
        "traced": len(space.traced),
        "precision": str(dtype).removeprefix("torch."),
        "largest_error": max(errors),
        "batch": both(lambda network: batches(network, inputs), model, half),
        "training": both(lambda network: step(network, inputs), model, half),
        "saved": both(lambda network: saved(space, inputs, half), model, half),
        "exported": both(lambda network: exported(network, inputs), model, half),
        "reason": f"{of_packages(reason)} {share:.2f}" if share >= 0.01 else "",
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "verdict": "wrong" if max(errors) > WRONG[dtype] and not rounding(space, inputs, some, errors) else "right",
    }
    return row


def main(name: str) -> None:
    """Measure a network within bounds."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(measured(name)))


if __name__ == "__main__":
    main(*sys.argv[1:])
