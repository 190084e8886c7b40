from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from checks import (
    assert_everything_is_explained,
    assert_removed_equals_masked,
    candidates,
    counted_macs,
    counted_parameters,
)
from hypothesis import HealthCheck, given, seed, settings

from optuna_softprune import ComponentWarning, CountWarning, NothingToPruneError, PruningSpace, Side
from optuna_softprune.testing import ZOO, RandomNetwork, ZooNetwork, randomise
from optuna_softprune.testing.strategies import random_networks

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna_softprune.UnusedParameterWarning"),
    pytest.mark.filterwarnings("ignore::optuna_softprune.VerificationWarning"),
]
PRUNABLE = [network for network in ZOO if network.groups]
by_name = pytest.mark.parametrize("network", PRUNABLE, ids=lambda network: network.name)


def test_zoo_has_many_networks_with_names_of_their_own() -> None:
    assert len({network.name for network in ZOO}) == len(ZOO) >= 25


@by_name
def test_zoo_network_has_the_groups_that_it_states(network: ZooNetwork) -> None:
    space = PruningSpace(network.build().eval(), network.inputs())
    found = {group.name: (group.size, {(s.tensor, s.axis) for s in group.slices}) for group in space.groups}
    assert found == {name: (size, network.slices(name)) for name, (size, _) in network.groups.items()}
    assert [group.name for group in space.groups] == list(network.groups)


@pytest.mark.parametrize("network", [n for n in ZOO if not n.groups], ids=lambda network: network.name)
def test_zoo_network_without_groups_says_why(network: ZooNetwork) -> None:
    with pytest.raises(NothingToPruneError, match=r"Expected at least one group .* everything is protected"):
        PruningSpace(network.build().eval(), network.inputs())


@by_name
def test_removed_equals_masked_and_counts_are_exact(network: ZooNetwork) -> None:
    model = randomise(network.build())
    args = network.inputs()
    space = PruningSpace(model, args)
    assert_removed_equals_masked(space, model, args)


@by_name
def test_every_axis_is_in_a_group_or_protected(network: ZooNetwork) -> None:
    model = network.build().eval()
    assert_everything_is_explained(PruningSpace(model, network.inputs()), model)


def check_random_network(model: RandomNetwork) -> None:
    randomise(model)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    try:
        space = PruningSpace(model, (x,))
    except NothingToPruneError:
        return
    assert_everything_is_explained(space, model)
    assert_removed_equals_masked(space, model, (x,))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(random_networks())
def test_random_network(model: RandomNetwork) -> None:
    check_random_network(model)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_thousand_random_networks(part: int) -> None:
    @seed(part)
    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(random_networks(max_steps=14))
    def check(model: RandomNetwork) -> None:
        check_random_network(model)

    check()


def test_discovery_is_the_same_every_time() -> None:
    network = next(n for n in ZOO if n.name == "norms")
    model = network.build().eval()
    one, two = (PruningSpace(model, network.inputs()) for _ in range(2))
    assert str(one) == str(two)
    assert one.protected == two.protected
    for a, b in zip(one.groups, two.groups, strict=True):
        assert (a.name, a.size, a.components) == (b.name, b.size, b.components)
        assert [(s.tensor, s.axis, s.indices.tolist()) for s in a.slices] == [
            (s.tensor, s.axis, s.indices.tolist()) for s in b.slices
        ]


def test_example_batch_does_not_change_groups() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    one, many = (PruningSpace(model, (torch.randn(batch, 1, 4, 4),)) for batch in (1, 7))
    # Multiply-accumulates, the last column, are those of the whole batch.
    assert [line.split()[:-1] for line in str(one).splitlines()[1:]] == [
        line.split()[:-1] for line in str(many).splitlines()[1:]
    ]


def test_sides_say_what_makes_and_what_reads_a_group() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)).eval()
    (group,) = PruningSpace(model, (torch.randn(1, 1, 5, 5),)).groups
    sides = {each.tensor: each.side for each in group.slices}
    assert sides["0.weight"] is Side.OUTPUT
    assert sides["1.running_var"] is Side.BOTH
    assert sides["2.weight"] is Side.INPUT


def test_groups_of_several_components_are_couplings() -> None:
    network = next(n for n in ZOO if n.name == "bottleneck")
    model = network.build().eval()
    space = PruningSpace(model, network.inputs())
    assert {group.name: group.components for group in space.groups} == {
        "encoder.0": ("encoder",),
        "encoder.3": ("encoder", "decoder"),
        "decoder.0": ("decoder",),
    }
    head = {"head": model.get_submodule("decoder.3")}
    with pytest.warns(ComponentWarning, match=r"984 of 1,001 are in none of them: encoder.0.weight, .* \(1 more\)"):
        named = PruningSpace(model, network.inputs(), components=head)
    assert [group.components for group in named.groups] == [(), (), ("head",)]


def test_counts_of_components_add_up_to_those_of_the_network() -> None:
    network = next(n for n in ZOO if n.name == "bottleneck")
    model = network.build().eval()
    whole = PruningSpace(model, network.inputs())
    c = whole.snap({group.name: 0.5 for group in whole.groups})
    small = whole.prune(c)
    for part in ("encoder", "decoder"):
        counts = tuple(sum(p.numel() for p in m.get_submodule(part).parameters()) for m in (model, small))
        assert whole.component_counts(c)[part] == counts
    head = model.get_submodule("decoder.3")
    nested = {"decoder": model.get_submodule("decoder"), "head": head}
    with pytest.warns(ComponentWarning, match="encoder.0.weight"):
        named = PruningSpace(model, network.inputs(), components=nested)
    for space in (whole, named):
        for of, dense, kept in (
            ("parameters", counted_parameters(model), counted_parameters(small)),
            ("macs", counted_macs(model, network.inputs()), counted_macs(small, network.inputs())),
        ):
            rows = space.component_counts(c, of)
            assert tuple(map(sum, zip(*rows.values(), strict=True))) == (dense, kept)
    rows = named.component_counts(c)
    assert list(rows) == ["decoder", "head", "(rest)"]
    assert rows["head"][0] == counted_parameters(head)
    assert "(rest)" not in whole.component_counts(c)


def test_a_space_is_one_line_and_in_a_notebook_its_table() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    space = PruningSpace(model, (torch.randn(1, 3),))
    title = "Sequential: 1 group, 6 units, 38 parameters (sparsity up to 0.789), 30 MACs (up to 0.833)"
    assert repr(space) == f"<PruningSpace of {title}>"
    assert repr(space.groups) == "(Group(name='0', size=6, components=('0', '2')),)"
    assert all(len(repr(each)) < 100 for each in space.groups[0].slices)
    rows = ElementTree.fromstring(f"<div>{space._repr_html_()}</div>").findall(".//tr")
    assert [[cell.text for cell in row] for row in rows] == [
        ["group", "component", "units", "parameters", "MACs"],
        ["0", "0 + 2", "6", "36", "30"],
    ]


def test_parameters_that_share_memory_without_being_one_are_protected() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    first, second = model[0], model[2]
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(second, torch.nn.Linear)
    second.weight.data = first.weight.data
    with pytest.raises(NothingToPruneError, match="shares its memory with"):
        PruningSpace(model.eval(), (torch.randn(2, 4),))


def test_dead_code_couples_too_because_the_removed_network_still_runs_it() -> None:
    class Dead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.scale = torch.nn.Linear(3, 4), torch.nn.Parameter(torch.ones(4))
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            _ = x * self.scale
            y: torch.Tensor = self.head(x)
            return y

    model = Dead().eval()
    (group,) = PruningSpace(model, (torch.randn(2, 3),)).groups
    assert ("scale", 0) in {(each.tensor, each.axis) for each in group.slices}


def test_position_counted_in_forward_is_protected_and_said() -> None:
    network = next(n for n in ZOO if n.name == "counted_slices")
    space = PruningSpace(network.build().eval(), network.inputs())
    (record,) = [p for p in space.protected if p.tensor == "few.weight" and p.axis == 1]
    assert record.count == 3
    assert "counts positions" in record.reason


def test_size_baked_into_forward_is_found_by_verification_and_said() -> None:
    network = next(n for n in ZOO if n.name == "baked_view")
    space = PruningSpace(network.build().eval(), network.inputs())
    (record,) = [p for p in space.protected if p.tensor == "fc.weight" and p.axis == 0]
    assert "x.view(x.shape[0], 8, -1)" in record.reason
    assert "invalid for input of size" in record.reason


def test_value_error_that_shapes_do_not_show_is_found_by_verification() -> None:
    class BakedScale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc = torch.nn.Linear(3, 6), torch.nn.Linear(6, 5)
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(torch.relu(self.stem(x)))
            y: torch.Tensor = self.head(x / x.shape[1] ** 0.5)
            return y

    space = PruningSpace(BakedScale().eval(), (torch.randn(2, 3),))
    assert [group.name for group in space.groups] == ["stem"]
    assert any("not the masked one" in p.reason for p in space.protected if p.tensor == "fc.weight")


def test_failing_groups_do_not_take_others_with_them() -> None:
    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(9)])
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i, layer in enumerate(self.layers):
                x = torch.relu(layer(x))
                if i in (2, 6):
                    x = x.view(-1, 4)
            y: torch.Tensor = self.head(x)
            return y

    space = PruningSpace(Mixed().eval(), (torch.randn(3, 4),))
    assert [group.name for group in space.groups] == [f"layers.{i}" for i in range(9) if i not in (2, 6)]


class Reducing(torch.nn.Module):
    """Overloads that are seldom met, of operations that have rules."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.fc, self.head = torch.nn.Linear(3, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.fc(torch.relu(x))
        if self.kind == "whole":  # one number for all that is kept
            y = y / (1 + y.var(True) + y.norm() + y.max() + y.std(1, False).mean())
        elif self.kind == "samples":  # over the samples, each feature alone
            y = y - y.var(0, True, True) - y.std(dim=0, keepdim=True) - y.max(0).values - y.logsumexp(0)
        elif self.kind == "types":  # of another tensor only the type is read
            y = y.to(x) + y.type_as(x) + torch.zeros_like(y) + torch.maximum(y, -y).clamp(min=0.1)
        z: torch.Tensor = self.head(y)
        return z


@pytest.mark.parametrize(
    ("kind", "groups"), [("whole", ["stem", "fc"]), ("samples", ["stem", "fc"]), ("types", ["stem", "fc"])]
)
def test_overloads_of_reductions_and_conversions(kind: str, groups: list[str]) -> None:
    model = randomise(Reducing(kind))
    x = torch.randn(4, 3)
    space = PruningSpace(model, (x,))
    assert [group.name for group in space.groups] == groups
    assert not any("in a way that" in p.reason for p in space.protected)
    assert_removed_equals_masked(space, model, (x,))


def test_operation_without_rule_protects_what_it_touches_and_nothing_else() -> None:
    class Sorted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc, self.head = torch.nn.Linear(3, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.fc(torch.relu(self.stem(x))).sort(1).values)
            return y

    space = PruningSpace(Sorted().eval(), (torch.randn(4, 3),))
    assert [group.name for group in space.groups] == ["stem"]
    assert {p.reason for p in space.protected if p.tensor == "fc.bias"} == {"`sort` has no rule"}


def test_many_candidates_agree_with_one_at_a_time() -> None:
    network = next(n for n in ZOO if n.name == "transposed")
    space = PruningSpace(network.build().eval(), network.inputs())
    some = list(candidates(space, 20))
    matrix = np.array([list(c.values()) for c in some])
    assert space.parameters(matrix).tolist() == [space.parameters(c) for c in some]
    assert space.macs(matrix).tolist() == [space.macs(c) for c in some]
    assert space.sparsity(matrix, of="macs").tolist() == [space.sparsity(c, of="macs") for c in some]
    assert space.parameters(matrix.reshape(4, 5, -1)).shape == (4, 5)


class Region(torch.nn.Module):
    """Layers in regions under contexts of torch: one inside of the other, and two outputs of one."""

    def __init__(self, outer: bool, inner: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.outer, self.inner, self.dtype = outer, inner, dtype
        self.stem, self.norm = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)
        self.mid, self.side, self.head = torch.nn.Conv2d(8, 6, 1), torch.nn.Conv2d(8, 6, 1), torch.nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=self.outer, dtype=self.dtype):
            y = self.stem(x)
            with torch.autocast("cpu", enabled=self.inner, dtype=self.dtype), torch.enable_grad():
                y = torch.relu_(self.norm(y.float()))
            first, second = self.mid(y), self.side(y)
        z: torch.Tensor = self.head(first.float() * second.float())
        return z


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_regions_under_contexts_of_torch_are_pruned_and_counted(outer: bool, inner: bool) -> None:
    model = Region(outer, inner).eval()
    x = torch.randn(2, 3, 8, 8)
    space = PruningSpace(model, (x,))
    assert [(group.name, group.size) for group in space.groups] == [("stem", 8), ("mid", 6)]
    for c in candidates(space, 3):
        small = space.prune(c)
        assert counted_macs(small, (x,)) == space.macs(c)
        assert space.verify(c) < (0.1 if outer or inner else 1e-3)


class Dead(torch.nn.Module):
    """A region reads what dead code reads too: torch then forgets one of the two."""

    def __init__(self, dead_region: bool) -> None:
        super().__init__()
        self.dead_region = dead_region
        self.stem, self.mid, self.head = torch.nn.Linear(3, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        if self.dead_region:
            with torch.enable_grad():
                torch.relu(self.mid(y))
        else:
            y.view_as(y).relu()
        with torch.autocast("cpu", enabled=False):
            y = torch.relu(self.mid(y))
        z: torch.Tensor = self.head(y)
        return z


@pytest.mark.parametrize("dead_region", [False, True])
def test_a_region_may_read_what_dead_code_reads(dead_region: bool) -> None:
    model, x = randomise(Dead(dead_region)), torch.randn(4, 3)
    space = PruningSpace(model, (x,))
    assert [(group.name, group.size) for group in space.groups] == [("stem", 8), ("mid", 6)]
    assert_removed_equals_masked(space, model, (x,))


class Auxiliary(torch.nn.Module):
    """A second head that only train mode uses; dropout and batch norm on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fc = torch.nn.Linear(3, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 5)
        self.aux = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2))
        self.head = torch.nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> object:
        x = torch.relu(self.norm(self.stem(x)))
        y = self.head(torch.relu(self.fc(x)))
        return (y, self.aux(x)) if self.training else y


def test_what_only_train_mode_uses_shrinks_with_what_feeds_it(recwarn: pytest.WarningsRecorder) -> None:
    model = randomise(Auxiliary()).eval()
    x = torch.randn(4, 3)
    space = PruningSpace(model, (x,))
    assert not recwarn.list
    assert [(group.name, group.size) for group in space.groups] == [("stem", 6), ("fc", 5)]
    assert {p.reason for p in space.protected if p.tensor == "aux.0.bias"} == {"used in train mode only"}
    assert ("aux.0.weight", 1) in {(each.tensor, each.axis) for each in space.groups[0].slices}
    assert_everything_is_explained(space, model)
    assert_removed_equals_masked(space, model, (x,))
    small = space.prune(dict.fromkeys(space.distributions, 0.5)).train()
    sum(y.sum() for y in small(x)).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


class MasksInTraining(torch.nn.Module):
    """Train mode writes a learned vector in place of some tokens, and leaves out a layer now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = torch.nn.Linear(3, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 2)
        self.masked = torch.nn.Parameter(torch.rand(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        if self.training:
            y[torch.rand(y.shape[:2]) < 0.5] = self.masked
        if not self.training or torch.rand([]) < 0.9:
            y = y + torch.relu(self.mid(y))
        z: torch.Tensor = self.head(y)
        return z


def test_what_is_drawn_and_written_in_train_mode_shrinks_with_what_it_is_written_to(
    recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    model, x = randomise(MasksInTraining()).eval(), torch.randn(4, 5, 3)
    space = PruningSpace(model, (x,))
    assert not recwarn.list
    assert not any(capfd.readouterr())
    assert [(group.name, group.size) for group in space.groups] == [("stem", 6)]
    assert ("masked", 0) in {(each.tensor, each.axis) for each in space.groups[0].slices}
    assert_everything_is_explained(space, model)
    small = space.prune({"stem": 0.5}).train()
    small(x).sum().backward()
    assert all(parameter.grad is not None for parameter in (small.masked, small.stem.weight))  # type: ignore[union-attr]


class Positions(torch.nn.Module):
    """Counts tokens with a buffer that is longer than the example, as BERT does."""

    position_ids: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = torch.nn.Embedding(20, 6), torch.nn.Linear(6, 2)
        self.register_buffer("position_ids", torch.arange(20)[None])

    def forward(self, x: torch.Tensor) -> object:
        return self.fc(self.embed(self.position_ids[:, : x.shape[1]]) + x)


def test_positions_that_the_example_does_not_reach_are_no_group() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), Positions())
    space = PruningSpace(randomise(model), (torch.randn(1, 8, 3),))
    assert list(space.distributions) == ["0"]
    assert {p.count for p in space.protected if p.reason == "no parameter has it"} == {12}


class Mapped(torch.nn.Module):
    """Hides a batch of matrix products from the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch.vmap(lambda row: self.head(torch.tanh(self.read(row))))(x)
        return made


def test_multiply_accumulates_that_the_graph_hides_are_said() -> None:
    x = torch.randn(4, 5, 6)
    with pytest.warns(CountWarning, match=r"has 360 multiply-acc.* counts 1,440 in .*Constrain `of=\"parameters\"`"):
        space = PruningSpace(randomise(Mapped()).eval(), (x,))
    assert space.macs(dict.fromkeys(space.distributions, 0.0)) == 360
    assert counted_macs(Mapped().eval(), (x,)) == 1440
