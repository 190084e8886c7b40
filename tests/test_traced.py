"""Submodules that run their own graphs in a smaller network: as any other module of it, and the dense one's numbers."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from checks import assert_removed_equals_masked
from torch import Tensor, nn

from optuna_softprune import LeastSquares, PrunedFileError, PruningSpace, load_pruned, save_pruned
from optuna_softprune.calibration import Calibration
from optuna_softprune.plan import ATTRIBUTE, parsed
from optuna_softprune.program import read
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = {"traced_heads": "attention", "traced_blocks": "block", "traced_pieces": "pieces"}
by_name = pytest.mark.parametrize("name", NAMES)


@functools.cache  # nobody writes to a network that is pruned
def made(name: str) -> tuple[PruningSpace, nn.Module, Tensor]:
    network = next(each for each in ZOO if each.name == name)
    model = randomise(network.build())
    (x,) = network.inputs()
    return PruningSpace(model, (x,)), model, x


def half(space: PruningSpace) -> dict[str, float]:
    return space.snap({name: found.high / 2 for name, found in space.distributions.items()})


@by_name
def test_the_line_is_named_and_the_module_stays_what_it_was(name: str) -> None:
    space, model, _ = made(name)
    line = {"attention": "c // self.num_heads", "block": "x.shape[2], 7,", "pieces": "x.split((2, 3, 2), 1)"}[
        NAMES[name]
    ]
    assert list(space.traced) == [NAMES[name]]
    assert line in space.traced[NAMES[name]]
    assert f"{NAMES[name]} runs its own graph, in eval mode" in str(space)
    assert line.split(",")[0] in space._repr_html_()
    small = space.prune(half(space))
    assert [type(each) for each in small.modules()] == [type(each) for each in model.modules()]
    assert list(small.state_dict()) == list(model.state_dict())


@by_name
def test_any_number_of_examples_goes_through_as_alone(name: str) -> None:
    space, _, x = made(name)
    small = space.prune(half(space)).eval()
    with torch.no_grad():
        whole = small(torch.cat([x, x.flip(0), x]))
        for i in range(2):
            torch.testing.assert_close(small(x[i : i + 1]), whole[i : i + 1])


@by_name
def test_copies_pickles_casts_files_and_exports_compute_the_same(name: str, tmp_path: Path) -> None:
    space, model, x = made(name)
    small = space.prune(half(space)).eval()
    expected = small(x)
    save_pruned(small, tmp_path / "small")
    loaded = load_pruned(tmp_path / "small", copy.deepcopy(model))
    exported = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim("examples")},)).module()
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), loaded, exported):
        assert torch.equal(other(x), expected)
    double = copy.deepcopy(small).double()
    assert double(x.double()).dtype == torch.float64
    torch.testing.assert_close(double(x.double()).float(), expected)
    assert torch.equal(small(x), expected)
    with torch.no_grad():
        for parameter in copy.deepcopy(small).parameters():
            parameter.zero_()
    assert torch.equal(small(x), expected)  # a copy shares nothing


@by_name
def test_a_training_step_reaches_all_weights_without_dropout(name: str) -> None:
    space, _, x = made(name)
    small = space.prune(half(space)).train()
    assert torch.equal(small(x), small(x))
    optimiser = torch.optim.SGD(small.parameters(), lr=1e-5)
    before = small(x).square().mean()
    before.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    optimiser.step()
    assert small(x).square().mean() < before


@by_name
def test_a_smaller_network_is_pruned_and_saved_again(name: str, tmp_path: Path) -> None:
    space, model, x = made(name)
    again = PruningSpace(space.prune(half(space)).eval(), (x,))
    assert list(again.traced) == [NAMES[name]]
    highest = {group: found.high for group, found in again.distributions.items()}
    assert again.verify(highest) <= 1e-9
    smaller = again.prune(highest)
    save_pruned(smaller, tmp_path / "smaller")
    assert torch.equal(load_pruned(tmp_path / "smaller", model)(x), smaller(x))


def test_inputs_of_other_sizes_are_refused_with_the_remedy() -> None:
    space, _, x = made("traced_heads")
    small = space.prune(half(space))
    with pytest.raises(ValueError, match=r"input of a traced part \(WidthPerHead\) to have shape \(2, 5, .*Prune with"):
        small(torch.cat([x, x], 1))


def test_another_setting_than_the_example_s_is_refused_with_the_remedy() -> None:
    space, _, x = made("traced_heads")
    small = space.prune(half(space))
    with pytest.raises(ValueError, match=r"to be True as in the example, but got False: .* Prune with an example"):
        small.get_submodule("attention")(small.get_submodule("stem")(x), causal=False)


def test_statistics_inside_of_a_traced_part_are_measured_after_the_refit() -> None:
    network = next(each for each in ZOO if each.name == "traced_blocks")
    model = randomise(network.build())
    x = torch.randn(16, 1, 4, 4)
    space = PruningSpace(model, (x,), reconstruction=LeastSquares(Calibration([(x,)])))
    small = space.prune(half(space)).eval()
    norm: Any = small.get_submodule("block.norm")
    kept = model.get_submodule("block.norm").running_mean
    assert norm.running_mean.shape[0] < kept.shape[0]  # type: ignore[union-attr,operator]
    assert not torch.isin(norm.running_mean, kept).any()  # type: ignore[arg-type]


class Box:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Boxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, box: Box) -> Tensor:
        y: Tensor = self.down(self.up(box.x).reshape(-1, 2, 3).flatten(1))
        return y


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.boxed, self.head = nn.Linear(3, 4), Boxed(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.boxed(Box(self.stem(x))))
        return y


def test_a_part_that_is_given_an_object_is_named_with_the_remedy() -> None:
    x = torch.randn(2, 3)
    space = PruningSpace(randomise(Strange()), (x,))
    assert [group.name for group in space.groups] == ["stem", "boxed.down"]
    assert not space.traced
    assert "`boxed` is given a `Box`, and a graph of its own takes tensors, numbers and texts only" in str(space)


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.head = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.up(self.stem(x)).reshape(-1, 6))
        return y


def test_the_network_itself_is_traced_only_if_it_is_handed_over_as_a_part() -> None:
    x = torch.randn(2, 3)
    model = randomise(Root())
    assert not PruningSpace(model, (x,)).traced
    whole = nn.Sequential(model).eval()
    space = PruningSpace(whole, (x,))
    assert list(space.traced) == ["0"]
    assert [group.name for group in space.groups] == ["0.stem", "0.up"]
    assert_removed_equals_masked(space, whole, (x,))


def edits(value: Any) -> Iterator[Any]:
    """Yield what is left when one place of nested JSON is another."""
    places = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, each in places:
        for other in (None, -1, 2**70, "os.system", [], {}, {"value": 10**6}, "aten.from_file.default"):
            changed = copy.copy(value)
            changed[key] = other
            yield changed
        for inner in edits(each):
            changed = copy.copy(value)
            changed[key] = inner
            yield changed


@by_name
def test_broken_graphs_are_refused_or_do_nothing_but_compute(name: str) -> None:
    space, _, _ = made(name)
    small = space.prune(half(space))
    content = json.loads(vars(small)[ATTRIBUTE])
    record = content["traced"][NAMES[name]]
    refused = total = 0
    for changed in edits(record):
        total += 1
        try:
            read(changed)
        except ValueError as error:  # nothing else is raised
            refused += str(error).startswith("Expected a traced part")
    assert refused > total / 3
    for operation in ("aten.from_file.default", "aten.save.default", "os.system", "prim.device.default", "getitem.x"):
        broken = {**record, "steps": [[operation, *record["steps"][0][1:]], *record["steps"][1:]]}
        with pytest.raises(PrunedFileError, match="an operation on tensors, but got"):
            parsed(json.dumps({**content, "traced": {NAMES[name]: broken}}))
