"""Widths that must be equal, lines that decide by widths, and extremes: no candidate fails or is another network."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from checks import assert_everything_is_explained, assert_removed_equals_masked
from torch import Tensor, nn

from optuna_softprune import NothingToPruneError, PruningSpace
from optuna_softprune.removal import Verifier
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CANDIDATES = 150


class Two(nn.Module):
    """Two images of several channels each, and what a line makes of both."""

    def __init__(
        self, line: Callable[[Tensor, Tensor], Tensor], a: int = 6, b: int = 6, out: int | None = None
    ) -> None:
        super().__init__()
        self.line = line
        self.stem, self.other = nn.Conv2d(3, a, 1), nn.Conv2d(3, b, 3, padding=1)
        self.skip = nn.Linear(a, 2)
        self.head = nn.LazyConv2d(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.stem(x), self.other(x)
        y: Tensor = self.head(self.line(first, torch.relu(second))).mean((2, 3))
        return y + self.skip(first.mean((2, 3)))


def space_of(model: nn.Module, side: int = 4) -> tuple[PruningSpace | None, nn.Module, Tensor]:
    """Return the space of a network for images (4, 3, side, side), or None if nothing can be pruned."""
    x = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    model(x)  # lazy layers
    model = randomise(model)
    try:
        return PruningSpace(model, (x,)), model, x
    except NothingToPruneError:
        return None, model, x


def assert_every_candidate_is_right(space: PruningSpace, model: nn.Module, x: Tensor) -> None:
    """All candidates, or some of all kinds: each runs with two batch sizes, and is the masked network."""
    assert_everything_is_explained(space, model)
    levels = [(space.lattice.sizes[i] - each).tolist() for i, each in enumerate(space.lattice.levels)]
    every = list(itertools.islice(itertools.product(*levels), 100_000))
    for kept in every[:: math.ceil(len(every) / MOST_CANDIDATES)] + every[-1:]:
        sizes = space.lattice.sizes.tolist()
        c = {name: (n - k) / n for name, k, n in zip(space.lattice.names, kept, sizes, strict=True)}
        assert space.verify(c) <= 1e-9, kept
        small = space.prune(c)
        with torch.no_grad():
            assert small(x).shape == small(torch.cat([x, x[:1]]))[:-1].shape


def widths_equal(a: Tensor, b: Tensor) -> Tensor:
    return b.reshape(b.shape[0], a.shape[1], -1).unsqueeze(-1)


EQUAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reshape by the other's width": widths_equal,
    "view as the other": lambda a, b: b.view_as(a),
    "sum after a reshape": lambda a, b: a + b.reshape(b.shape[0], a.shape[1], *b.shape[2:]),
    "zeros of the other's width": lambda a, b: b + torch.zeros(b.shape[0], a.shape[1], 1, 1),
    "expand to the other's width": lambda a, b: b + a.mean() * 0 + b.new_ones(1).expand(1, a.shape[1], 1, 1),
    "counts of a concatenation": lambda a, b: torch.cat([a, b], 1).split([b.shape[1], a.shape[1]], 1)[0] + b,
    "an assertion": lambda a, b: asserted(a, b),
    "a slice up to the other's width": lambda a, b: b[:, : a.shape[1]],
    "a slice from the other's end": lambda a, b: b[:, -a.shape[1] :],
    "as many as both have": lambda a, b: torch.stack([a[:, : b.shape[1]], b[:, : a.shape[1]]]).sum(0),
    "the diagonal of products": lambda a, b: (a.flatten(2) @ b.flatten(2).mT).diagonal(0, 1, 2)[..., None, None],
    "a view if it can be one": lambda a, b: viewed(a, b),
    "a sum if both are as wide": lambda a, b: a + b if a.shape == b.shape else a.mean(1, keepdim=True) + b,
}


def asserted(a: Tensor, b: Tensor) -> Tensor:
    assert a.shape[1] == b.shape[1]
    return b


def viewed(a: Tensor, b: Tensor) -> Tensor:
    try:
        return b.view(b.shape[0], a.shape[1], *b.shape[2:]) * 2
    except RuntimeError:
        return b


@pytest.mark.parametrize("line", EQUAL.values(), ids=EQUAL)
@pytest.mark.parametrize("width", [6, 7, 16])
def test_groups_that_must_be_as_wide_are_one_group_or_protected(
    line: Callable[[Tensor, Tensor], Tensor], width: int
) -> None:
    space, model, x = space_of(Two(line, width, width))
    if space is not None:
        assert_every_candidate_is_right(space, model, x)


def test_groups_of_equal_counts_are_joined_unit_by_unit() -> None:
    space, model, x = space_of(Two(widths_equal))
    assert space is not None
    (group,) = space.groups
    assert (group.name, group.size) == ("stem", 6)
    assert {(each.tensor, each.axis) for each in group.slices} >= {("stem.weight", 0), ("other.weight", 0)}
    assert_removed_equals_masked(space, model, (x,))
    small = space.prune({"stem": 0.5})
    assert small.get_submodule("stem").out_channels == small.get_submodule("other").out_channels == 3


@pytest.mark.parametrize("widths", [(8, 4), (4, 8)])
def test_widths_at_which_an_exception_is_caught_stay(widths: tuple[int, int]) -> None:
    before = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1))
    space, model, x = space_of(nn.Sequential(before, Two(viewed, *widths)))
    assert space is not None
    assert [group.name for group in space.groups] == ["0.0", "0.2"]
    assert "the forward pass goes on though an operation fails at" in str(space)
    assert_every_candidate_is_right(space, model, x)


def test_three_groups_in_a_chain_of_equal_counts_are_one() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3, 8, 1) for _ in range(4))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b, c, d = self.a(x), self.b(x), self.c(x), self.d(x)
            b = b.reshape(b.shape[0], a.shape[1], -1)
            c = c.reshape(c.shape[0], b.shape[1], -1)
            y: Tensor = self.head((b * c.sin()).mean(2)) + d.mean((1, 2, 3)).unsqueeze(1) + a.mean((1, 2, 3))[:, None]
            return y

    space, model, x = space_of(Chain())
    assert space is not None
    assert "b" not in [group.name for group in space.groups]
    assert_every_candidate_is_right(space, model, x)


class Stage(nn.Module):
    """A residual block that asks in its forward pass whether the shortcut needs a convolution."""

    def __init__(self, before: int, width: int, stride: int, asks: str) -> None:
        super().__init__()
        self.conv, self.asks = nn.Conv2d(before, width, 3, stride, 1), asks
        self.shortcut = nn.Conv2d(before, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        if self.asks == "size" and x.size() != y.size():
            x = self.shortcut(x)
        if self.asks == "module" and self.conv.in_channels != self.conv.out_channels:
            x = self.shortcut(x)
        if self.asks == "number" and x.numel() != y.numel():
            x = self.shortcut(x)
        if self.asks == "wider" and y.shape[1] > x.shape[1]:
            x = self.shortcut(x)
        return x + y


@pytest.mark.parametrize("asks", ["size", "module", "number", "wider"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_branches_on_widths_are_those_of_the_dense_network(asks: str, round_to: int) -> None:
    model = randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1),
            Stage(8, 16, 1, asks),
            nn.ReLU(),
            Stage(16, 32, 1, asks),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 2),
        )
    )
    x = torch.randn(4, 3, 4, 4)
    space = PruningSpace(model, (x,), round_to=round_to)
    assert len(space.groups) == 3
    assert_every_candidate_is_right(space, model, x)
    bounded = [group for group in space.groups if group.least > 1]
    assert bounded
    assert all("the forward pass decides by this width" in group.why_bounded for group in bounded)
    assert f"keeps at least {bounded[0].least} units" in str(space)


BRANCHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "even widths": lambda a, b: b if b.size(1) % 2 == 0 else b.sin(),
    "square widths": lambda a, b: b if math.isqrt(b.shape[1]) ** 2 == b.shape[1] else b.cos(),
    "as wide as the input": lambda a, b: b.sin() if b.shape[1] == 3 else b.cos(),
    "a sum of widths": lambda a, b: b.sin() if a.shape[1] + b.shape[1] > 9 else b.cos(),
    "equal or less": lambda a, b: b.sin() if a.shape <= b.shape else b.cos(),
    "equal, else less": lambda a, b: (
        b.sin() if a.shape[1] == b.shape[1] else b.sin() if a.shape[1] < b.shape[1] else b.cos()
    ),
    "a ratio": lambda a, b: b.sin() if b.shape[1] / 2 == 3.0 else b.cos(),
    "a ratio of two": lambda a, b: b.sin() if 2 * b.shape[1] / a.shape[1] - 1 > 0.5 else b.cos(),
    "the smaller of two": lambda a, b: b / min(b.shape[1], 4),
    "harmless": lambda a, b: torch.relu(b) if b.shape[1] > 3 else b.clamp(min=0),
    "width as a number": lambda a, b: b / b.shape[1] ** 0.5,
    "root of a width": lambda a, b: b / math.sqrt(a.shape[1]),
    "a part of the width": lambda a, b: b[:, : b.shape[1] // 2],
    "some channels": lambda a, b: b[:, :2] if b.shape[1] > 2 else b[:, :1],
    "one channel": lambda a, b: b[:, 1:2] + b,
    "largest of channels": lambda a, b: b.topk(3, 1).values,
    "in pieces by number": lambda a, b: torch.cat(torch.split(b, 3, 1)[:2], 1),
    "two pieces": lambda a, b: torch.cat(torch.chunk(b, 2, 1)[::-1], 1),
}


@pytest.mark.parametrize("line", BRANCHES.values(), ids=BRANCHES)
@pytest.mark.parametrize(("a", "b"), [(6, 6), (4, 8)])
def test_no_candidate_of_a_line_that_decides_by_width_is_wrong(
    line: Callable[[Tensor, Tensor], Tensor], a: int, b: int
) -> None:
    space, model, x = space_of(Two(line, a, b))
    assert space is not None
    assert_every_candidate_is_right(space, model, x)


EXTREMES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squeeze": lambda a, b: F.adaptive_avg_pool2d(b, 1).squeeze()[:, :, None, None] * b,
    "squeeze of a stack": lambda a, b: torch.cat([b.mean((2, 3)), a.mean((2, 3))], 1).squeeze()[:, :, None, None],
    "unbiased deviation": lambda a, b: b / b.std(1, keepdim=True),
    "group norm": lambda a, b: F.group_norm(b, b.shape[1]),
    "instance norm of points": lambda a, b: F.instance_norm(F.interpolate(b, size=(2, 2))),
    "difference of neighbours": lambda a, b: b[:, 1:] - b[:, :-1],
}


@pytest.mark.parametrize("line", EXTREMES.values(), ids=EXTREMES)
def test_no_candidate_with_the_fewest_units_fails(line: Callable[[Tensor, Tensor], Tensor]) -> None:
    space, model, x = space_of(Two(line, 5, 6))
    assert space is not None
    assert_every_candidate_is_right(space, model, x)


def test_fewest_units_that_run_are_found_and_said() -> None:
    space, _, _ = space_of(Two(EXTREMES["squeeze"], 5, 6))
    assert space is not None
    assert {group.name: group.least for group in space.groups} == {"stem": 1, "other": 2}
    assert space.distributions["other"].high == pytest.approx(4 / 6)
    assert "other keeps at least 2 units: the removed network fails at" in str(space)
    assert "squeeze" in space.groups[1].why_bounded


class Decides(nn.Module):
    """Decides by an integer that is as large as a width, where values do not tell: on the way to no output, or of one.

    Attention to a single token changes nothing.
    """

    def __init__(self, *, used: bool) -> None:
        super().__init__()
        self.mode, self.used = 3, used
        self.up, self.down, self.head = nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.up(x)).reshape(len(x), 1, self.mode)
        if self.mode == 3:
            y = (y @ y.mT).softmax(-1) @ y if self.used else y @ y.mT @ y
        z: Tensor = self.down(y.flatten(1))
        found: Tensor = self.head(z if self.used else x)
        return found


@pytest.mark.parametrize("used", [True, False])
def test_what_values_do_not_tell_is_counted_as_it_runs(used: bool) -> None:
    model, x = randomise(Decides(used=used)).eval(), torch.randn(2, 4)
    space = PruningSpace(model, (x,))
    assert "it runs" in str(space)
    assert "multiply-accumulates instead of" in str(space)
    assert_removed_equals_masked(space, model, (x,))


class Numbered(nn.Module):
    """Blocks of which some state a size as a number."""

    def __init__(self, depth: int, kinds: int) -> None:
        super().__init__()
        self.kinds = tuple(range(kinds))
        self.stem = nn.Linear(3, 6)
        self.up = nn.ModuleList(nn.Linear(6, 8) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(8, 6) for _ in range(depth))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            y = torch.relu(up(x))
            kind = self.kinds[i % len(self.kinds)]
            if kind == 1:
                y = y.view(-1, 8)
            elif kind == 2:
                y = y / y.shape[1] ** 0.5
            elif kind == 3:
                y = y.reshape(-1, 2, 4).flatten(1)
            x = x + down(y)
        z: Tensor = self.head(x)
        return z


@pytest.mark.parametrize("kinds", [1, 2, 3, 4])
def test_failures_of_three_kinds_cost_ten_comparisons_at_most(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compare = [0], Verifier.compare

    def counted(self: Verifier, *args: object) -> object:
        calls[0] += 1
        return compare(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Verifier, "compare", counted)
    space = PruningSpace(randomise(Numbered(20, kinds)), (torch.randn(4, 3),))
    assert len(space.groups) == 1 + sum(i % kinds == 0 for i in range(20))
    assert calls[0] <= (3 if kinds == 1 else 10)


@torch.library.custom_op("softprune_tests::grouped_mm_fallback", mutates_args=())
def exported_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(x, weight, offs=ends)


@exported_product.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(x), weight.shape[2])


class Experts(nn.Module):
    """Rows of fixed experts, whose product takes rows of 16 bytes only, in no double precision, on no meta device.

    As in transformers it is exported as an operation that takes any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 24), nn.Linear(24, 2)
        self.experts = nn.Parameter(torch.randn(2, 24, 24))
        self.ends: Tensor
        self.register_buffer("ends", torch.tensor([4, 10], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if torch.compiler.is_exporting():
            x = exported_product(x, self.experts, self.ends)
        else:
            x = F.grouped_mm(x, self.experts, offs=self.ends)
        return self.head(torch.relu(x))


def test_what_takes_whole_rows_only_keeps_multiples() -> None:
    model, x = randomise(Experts()), torch.randn(10, 3)
    space = PruningSpace(model, (x,))
    assert [(group.name, group.multiple) for group in space.groups] == [("stem", 8), ("experts", 8)]
    assert [levels.tolist() for levels in space.lattice.levels] == [[0, 8, 16]] * 2
    assert str(space).count("keeps all units or a multiple of 8: the removed network fails at") == 2
    for c in ({"stem": 0.5, "experts": 0.2}, {name: found.high for name, found in space.distributions.items()}):
        assert space.verify(c) < 1e-3
        assert space.prune(c)(x).shape == (10, 2)


class AsksForValues(nn.Module):
    """Decides by values where it is not exported, and reshapes one layer's output to the width of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and bool(x.isnan().any()):
            raise ValueError
        y, z = torch.relu(self.a(x)), torch.tanh(self.b(x))
        return self.head(y.reshape(len(x), z.shape[1])) + z.mean(1, keepdim=True)


class Chaotic(nn.Module):
    """Goes over its own output again and again, in a precision that the code names: rounding grows all the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = first = self.stem(x.float())
        for _ in range(40):
            state = torch.sin(4 * self.mix(state) + first).float()
        y: Tensor = self.head(state)
        return y


def test_rounding_that_grows_in_a_named_precision_is_no_difference() -> None:
    model = Chaotic().requires_grad_(False).eval()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert (model(x) - model(x * (1 + 1e-6))).abs().max() > 0.01
    space = PruningSpace(model, (x,))
    assert [(group.name, group.size) for group in space.groups] == [("stem", 16)]
    assert_everything_is_explained(space, model)
    assert space.verify({"stem": 0.5}) <= 1e-6
    assert space.prune({"stem": 0.5})(x).dtype == torch.float32


def test_sizes_are_proven_where_the_forward_pass_asks_for_values() -> None:
    space = PruningSpace(randomise(AsksForValues()), (torch.randn(4, 3),))
    assert [(group.name, group.size) for group in space.groups] == [("a", 6)]
    assert {each.tensor for each in space.groups[0].slices} == {
        "a.weight",
        "a.bias",
        "b.weight",
        "b.bias",
        "head.weight",
    }


class Hidden(nn.Module):
    """Widths that are numbers, each followed by an operation that makes a constant of one unit."""

    def __init__(self, erase: Callable[[Tensor], Tensor], *codes: int) -> None:
        super().__init__()
        self.erase, self.stem = erase, nn.Linear(3, 6)
        widths = [6, *codes, 5]
        self.codes = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths[:-1]))
        self.wide, self.head = nn.Linear(codes[-1], 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for code in self.codes:
            x = self.erase(code(x / x.shape[1]))
        y: Tensor = self.head(torch.relu(self.wide(x)))
        return y


ERASING: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: F.group_norm(x, 1),
    "root mean square": lambda x: F.rms_norm(x, x.shape[1:], eps=0.0),
    "instance norm": lambda x: F.instance_norm(x[:, None]).squeeze(1),
    "softmax": lambda x: x.softmax(1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "centred": lambda x: x - x.mean(1, keepdim=True),
    "by hand": lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt(),
    "product with itself": lambda x: x.square() / torch.einsum("bi,bi->b", x, x)[:, None],
}
FAST = [("layer norm", (2,)), ("layer norm", (3, 3)), ("group norm", (2,)), ("softmax", (2,)), ("by hand", (2,))]
FAST += [("product with itself", (2,))]
ALL = [(name, codes) for codes in [(2,), (3, 3), (3, 4, 3)] for name in ERASING]


@pytest.mark.parametrize(
    ("name", "codes"), [each if each in FAST else pytest.param(*each, marks=pytest.mark.slow) for each in ALL], ids=str
)
def test_what_is_a_constant_of_one_unit_hides_nothing(name: str, codes: tuple[int, ...]) -> None:
    model = randomise(Hidden(ERASING[name], *codes))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x,))
    assert_every_candidate_is_right(space, model, x)
