"""What has no rule of its own is made of what has one, and what is meant by removing where channels are mixed."""

from __future__ import annotations

import importlib
import re
import sys
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from checks import assert_removed_equals_masked
from torch import Tensor, nn

from optuna_softprune import ExportError, PruningSpace
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Between(nn.Module):
    """A function of tokens (N, 4, 6) between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 6), nn.Linear(6, 2), function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.function(torch.tanh(self.a(x))))
        return y


def places(x: Tensor) -> Tensor:
    """Return where to interpolate between tokens (N, tokens, channels): (N, 4, 1, 2)."""
    at = torch.linspace(-0.9, 0.8, 4)
    return torch.stack([torch.zeros(4), at], 1)[None, :, None].expand(len(x), 4, 1, 2).to(x)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "and": lambda x: x * ((x > 0) & (x < 1)),
    "or": lambda x: x * ((x > 0) | (x < -1)),
    "view_as": lambda x: x.flatten(0, 1).view_as(x),
    "reshape_as": lambda x: x.flatten(0, 1).reshape_as(x),
    "concat": lambda x: torch.concat([x, x], 1),
    "narrow": lambda x: x.narrow(1, 0, 4),
    "tensor_split": lambda x: torch.cat(torch.tensor_split(x, 2, 1), 1),
    "moveaxis": lambda x: x.moveaxis(1, 2).moveaxis(2, 1),
    "swapdims": lambda x: x.swapdims(1, 2).swapdims(1, 2),
    "mT": lambda x: x.mT.sin().mT,
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x.mean(1, True))[1] + x,
    "special": lambda x: torch.special.expit(x) + torch.special.erf(x),
    "gather": lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.long)),
    "take_along_dim": lambda x: x.take_along_dim(torch.zeros_like(x, dtype=torch.long), 1),
    "unfold": lambda x: x.unfold(1, 2, 2).mean(-1),
    "cosine_similarity": lambda x: x * F.cosine_similarity(x[:, :2], x[:, 2:], dim=2).mean(1)[:, None, None],
    "tril": lambda x: torch.ones(4, 4).to(x).tril() @ x,
    "einsum of three": lambda x: torch.einsum("bic,bjc,bkc->bic", x, x, x),
    "grid_sample": lambda x: F.grid_sample(x.mT[..., None], places(x), align_corners=True)[..., 0].mT,
    "index_put": lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([2, 3])), x.mean((0, 1))),
    "tensordot": lambda x: torch.tensordot(torch.ones(5, 4).to(x), x, dims=([1], [1])).transpose(0, 1),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_an_operation_with_a_rule_is_pruned(name: str) -> None:
    model = randomise(Between(SPELLINGS[name]))
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x,))
    assert [(group.name, group.size) for group in space.groups] == [("a", 6)]
    assert_removed_equals_masked(space, model, (x,))


class Products(nn.Module):
    """Bare matrices, in products that are fused with a sum, by index letters, and plain."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.randn(3, 6), torch.randn(6, 5), torch.randn(5, 4), torch.randn(2, 4)])
        self.b = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(torch.addmm(self.b, x, self.w[0], beta=0.5))
        x = torch.einsum("bi,io->bo", x, self.w[1]).sin()
        x = torch.einsum("io,bi->ob", self.w[2], x).sin()
        return torch.inner(x.t(), self.w[3])


def test_bare_matrices_in_products_of_all_kinds_are_pruned() -> None:
    model = randomise(Products())
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    # `einsum` multiplies over a single index without what the counter of torch calls a product.
    space = PruningSpace(model, (x,), min_units=2)
    assert [(group.name, group.size) for group in space.groups] == [("w.0", 6), ("w.1", 5), ("w.2", 4)]
    assert_removed_equals_masked(space, model, (x,))


def test_a_product_by_elements_is_no_contraction_however_it_is_written(recwarn: pytest.WarningsRecorder) -> None:
    model = randomise(Between(lambda x: torch.einsum("bic,bi->bic", x, x.sum(2))))
    x = torch.randn(2, 4, 3)
    space = PruningSpace(model, (x,))
    assert not recwarn.list
    assert [(group.name, group.size) for group in space.groups] == [("a", 6)]
    assert_removed_equals_masked(space, model, (x,))


def test_where_the_largest_channel_stands_keeps_all_channels() -> None:
    model = randomise(Between(lambda x: x * x.max(2, keepdim=True).indices))
    with pytest.raises(ValueError, match="the forward pass counts positions along it"):
        PruningSpace(model, (torch.randn(2, 4, 3),))


@pytest.mark.parametrize("tokens", [3, 40])
def test_residual_stream_is_pruned_whatever_the_number_of_tokens(tokens: int) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.token = nn.Linear(3, 8), nn.Parameter(torch.randn(1, 1, 8))
            self.position = nn.Parameter(torch.randn(1, tokens + 1, 8))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(len(x), -1, -1), self.stem(x)], 1) + self.position
            y: Tensor = self.head(x[:, 0] + x.mean(1))
            return y

    model = randomise(Tokens())
    x = torch.randn(2, tokens, 3, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x,))
    (group,) = space.groups
    assert group.size == 8
    assert_removed_equals_masked(space, model, (x,))


def test_integer_that_is_a_width_by_chance_stays_as_it_is() -> None:
    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.times = 6
            self.a, self.b = nn.Linear(3, 12), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x) * self.times
            y: Tensor = self.b(x.view(len(x), 2, x.shape[1] // 2).sum(1))
            return y

    model = randomise(Chance())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x,))
    assert [(group.name, group.size) for group in space.groups] == [("a", 6)]
    assert space.prune({"a": 0.5}).times == 6
    assert_removed_equals_masked(space, model, (x,))


def test_number_of_groups_and_a_part_of_a_width_that_a_module_holds_follow() -> None:
    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.width = 6, 8
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Conv2d(4, 2, 1)
            self.kernel = nn.Buffer(torch.rand(6, 1, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(self.a(x), self.kernel, groups=self.channels)
            left, right = self.b(x).split(self.width // 2, 1)  # type: ignore[no-untyped-call]
            y: Tensor = self.c(left * right)
            return y

    model = randomise(Blur())
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x,))
    assert {group.name: group.size for group in space.groups} == {"a": 6, "b": 4}
    small = space.prune({"a": 0.5, "b": 0.25})
    assert (small.channels, small.width) == (3, 6)
    assert_removed_equals_masked(space, model, (x,))


def test_sizes_that_a_module_holds_follow_in_the_smaller_network() -> None:
    (network,) = (n for n in ZOO if n.name == "stated_widths")
    space = PruningSpace(randomise(network.build()), network.inputs())
    small = space.prune({name: 0.5 if name in ("conv", "join/1") else 0.0 for name in space.distributions})
    assert small.in_features == 2 * 16
    assert (small.scale_shape, small.parts, small.first, small.hidden) == ((2, 1, 1), (3, 2, 2), 2, 6)


def test_a_network_that_minds_being_looked_at_is_pruned_as_if_it_held_no_sizes() -> None:
    class Shy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 6
            self.a, self.c, self.b = nn.Linear(3, 5), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            assert type(self) is Shy
            y: Tensor = self.b(self.c(self.a(x)).view(1, -1, self.width).sum(0))
            return y

    space = PruningSpace(randomise(Shy()), (torch.randn(4, 3),))
    assert [group.name for group in space.groups] == ["a"]


class Gram(nn.Module):
    """Products of tokens, mapped on: a width that no channel reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(3, 8), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> object:
        y = self.stem(x)
        gram = y @ y.transpose(1, 2)
        return self.out(gram)


class Rolls(nn.Module):
    """A box of channels that is rolled along both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.out = nn.Linear(3, 8), nn.Linear(8, 12), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> object:
        y = self.mid(self.stem(x)).view(-1, 3, 4)
        return self.out((y.roll(1, 1) + y.roll(1, 2)).flatten(1))


def reasons(model: nn.Module, x: torch.Tensor, tensor: str, axis: int) -> set[str]:
    space = PruningSpace(randomise(model), (x,))
    return {each.reason for each in space.protected if (each.tensor, each.axis) == (tensor, axis)}


def test_a_reason_names_the_operation_and_the_line_where_units_end() -> None:
    (reason,) = reasons(Gram(), torch.randn(2, 5, 3), "out.weight", 1)
    assert re.fullmatch(r"coupled to what `matmul` at .*test_rules\.py:\d+: `gram = y @ .*` makes, .*", reason)


def test_what_is_one_unit_says_what_united_it() -> None:
    (reason,) = reasons(Rolls(), torch.randn(2, 3), "mid.weight", 0)
    assert reason.startswith("the forward pass counts positions along it by `roll` at ")
    assert re.search(r"test_rules\.py:\d+: `return self\.out\(.*`, which leaves one unit$", reason)


class Scaled(nn.Module):
    """Products of channels, divided by a number that is made of how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.keys = nn.Linear(3, 8), nn.Linear(3, 8)
        self.out = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> object:
        query, keys = self.stem(x), self.keys(x)
        return self.out(query @ keys.mT / torch.sqrt(torch.tensor(query.shape[-1])))


def test_a_number_made_of_a_width_protects_it_and_the_line_is_named() -> None:
    (reason,) = reasons(Scaled(), torch.randn(2, 5, 3), "stem.weight", 0)
    assert re.match(r"at .*test_rules\.py:\d+: `return .*shape\[-1\]\)\)\)` the forward pass makes a number of", reason)


def test_lines_are_not_those_of_torch_but_may_be_of_packages_named_like_it(tmp_path: Path) -> None:
    folder = tmp_path / "torchnetworks"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n        return super().forward(x) @ x\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        net = importlib.import_module("torchnetworks").Net(3, 4).eval()
        with pytest.raises(ExportError, match=r"torchnetworks.__init__\.py:6: `return super\(\)\.forward\(x\) @ x`"):
            PruningSpace(net, (torch.randn(2, 3),))
    finally:
        sys.path.remove(str(tmp_path))
