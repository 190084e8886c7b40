"""Oracles that know nothing of labels: zeroed producers, and Torch-Pruning where it is right."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch_pruning
from test_torchvision import build
from torch import nn

from optuna_softprune import Group, PruningSpace
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from optuna_softprune.testing import ZooNetwork


@dataclass
class ChosenFirst:
    """The unit that holds an index of a tensor's axis 0 goes first."""

    tensor: str
    index: int

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> list[NDArray[np.float64]]:
        scores = []
        for group in groups:
            found = np.ones(group.size)
            for each in group.slices:
                if (each.tensor, each.axis) == (self.tensor, 0):
                    found[(each.indices == self.index).any(axis=1)] = 0
            scores.append(found)
        return scores


def zoo_network(name: str) -> ZooNetwork:
    return next(network for network in ZOO if network.name == name)


# Network, and the modules that together make the units of one group, written down by reading its forward pass. Each
# is linear up to functions with f(0) = 0, so what these modules do not make is zero wherever it is read.
PRODUCERS = {
    "residual": ("stem", "conv2"),
    "dense_concat": ("b",),
    "split_sum": ("fc",),
    "squeeze_excite": ("conv",),
    "channel_shuffle": ("stem",),
    "grouped": ("stem",),
    "u_net": ("down",),
    "shared_module": ("stem", "block"),
    "in_place": ("a", "b"),
    "two_inputs": ("left", "right"),
    "bottleneck": ("encoder.3",),
}


@pytest.mark.parametrize(("name", "producers"), PRODUCERS.items())
def test_unit_whose_producers_are_zero_can_be_removed_without_a_change(name: str, producers: tuple[str, ...]) -> None:
    network = zoo_network(name)
    model = randomise(network.build()).double()
    args = tuple(x.double() for x in network.inputs())
    dense = PruningSpace(model, args)
    group = next(g for g in dense.groups if any(s.tensor == f"{producers[0]}.weight" and s.axis == 0 for s in g.slices))
    width = model.get_submodule(producers[0]).weight.shape[0]
    assert isinstance(width, int)
    # What one unit is in rows is taken from the widths alone: equal parts of the producer's rows.
    parts = width // group.size
    for unit in range(group.size):
        rows = [unit + group.size * part for part in range(parts)]
        zeroed = copy.deepcopy(model)
        with torch.no_grad():
            for producer in producers:
                module = zeroed.get_submodule(producer)
                module.weight[rows] = 0
                module.bias[rows] = 0
        space = PruningSpace(zeroed, args, importance=ChosenFirst(f"{producers[0]}.weight", rows[0]))
        c = {g.name: (1 / g.size if g.name == group.name else 0.0) for g in space.groups}
        with torch.no_grad():
            expected, got = zeroed(*args), space.prune(c)(*args)
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)
        assert expected.abs().max() > 1e-3


class TorchHeads(nn.Module):
    """Four heads of torch's own layer, which go with the channels between layers: it states one width for both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 12)
        self.attend = nn.MultiheadAttention(12, 4, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        return self.head(x + self.attend(x, x, x, need_weights=False)[0])


# Network, the group of heads, its units, and the rows of weights (and biases) that are zero: the values of one head.
HEADS: dict[str, tuple[Callable[[], nn.Module], str, int, dict[str, slice]]] = {
    "torch": (
        TorchHeads,
        "stem",
        4,
        {"attend.in_proj_": slice(30, 33), "attend.out_proj.": slice(6, 9), "stem.": slice(6, 9)},
    ),
    "packed": (zoo_network("heads").build, "qkv", 3, {"qkv.": slice(16, 18)}),
    "written_out": (zoo_network("eager_heads").build, "query", 4, {"value.": slice(6, 9)}),
    "grouped_queries_fused": (zoo_network("grouped_queries_fused").build, "query", 3, {"value.": slice(4, 8)}),
    "grouped_queries_repeated": (zoo_network("grouped_queries_repeated").build, "query", 3, {"value.": slice(4, 8)}),
}


@pytest.mark.parametrize(("build", "group", "size", "zeroed"), HEADS.values(), ids=HEADS)
def test_head_whose_values_are_zero_can_be_removed_without_a_change(
    build: Callable[[], nn.Module], group: str, size: int, zeroed: dict[str, slice]
) -> None:
    model = randomise(build()).double().eval()
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for prefix, rows in zeroed.items():
                if name.startswith(prefix):
                    parameter[rows] = 0
        (prefix, rows), *_ = zeroed.items()
        space = PruningSpace(model, (x,), importance=ChosenFirst(f"{prefix}weight", rows.start))
        assert {each.name: each.size for each in space.groups}[group] == size
        c = {each.name: (1 / size if each.name == group else 0.0) for each in space.groups}
        expected, got = model(x), space.prune(c)(x)
    assert space.parameters(c) < sum(each.numel() for each in model.parameters())
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["lstm", "gru", "plain_recurrent"])
def test_hidden_unit_that_stays_zero_can_be_removed_without_a_change(kind: str) -> None:
    network = zoo_network(kind)
    model = randomise(network.build()).double()
    args = tuple(x.double() for x in network.inputs())
    hidden, dead = 6, 2
    with torch.no_grad():
        # With all of its weights and biases zero a state that begins at zero stays there: tanh(0) = 0.
        for parameter in model.get_submodule("cell").parameters():
            parameter[dead::hidden] = 0
        space = PruningSpace(model, args, importance=ChosenFirst("cell.weight_ih_l0", dead))
        small = space.prune({"stem": 0.0, "cell": 1 / hidden})
        expected, got = model(*args), small(*args)
    assert small.get_parameter("cell.weight_hh_l0").shape[1] == hidden - 1
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 1e-3


def torch_pruning_groups(
    model: nn.Module, x: torch.Tensor, ignored: list[nn.Module]
) -> set[frozenset[tuple[str, int]]]:
    """Return the groups that Torch-Pruning finds, as sets of (module, axis of its weight)."""
    functions = torch_pruning.pruner.function
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    reads = (functions.prune_conv_in_channels, functions.prune_linear_in_channels)
    found = set()
    for group in graph.get_all_groups(ignored_layers=ignored):
        members = set()
        for item in group:
            name = item.dep.target.name.split(" ")[0]
            if item.dep.target.module in dict(model.named_modules()).values():
                members.add((name, int(item.dep.handler in reads)))
        found.add(frozenset(members))
    return found


def our_groups(space: PruningSpace) -> set[frozenset[tuple[str, int]]]:
    return {
        frozenset(
            (each.tensor.removesuffix(".weight"), each.axis) for each in group.slices if each.tensor.endswith(".weight")
        )
        for group in space.groups
    }


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet121", "googlenet"])
def test_groups_are_those_of_torch_pruning(name: str) -> None:
    model, x = build(name), torch.randn(2, 3, 64, 64)
    space = PruningSpace(model, (x,))
    (last,) = [module for path, module in model.named_modules() if path in ("fc", "classifier", "classifier.6")][-1:]
    assert our_groups(space) == torch_pruning_groups(model, x, [last])
