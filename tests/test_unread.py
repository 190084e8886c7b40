"""Integers that modules hold and no forward pass reads: they follow the one width that they can mean, or are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from checks import assert_removed_equals_masked
from test_prune import half
from torch import Tensor, nn

from optuna_softprune import PruningSpace, load_pruned, save_pruned
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from pathlib import Path


class Branches(nn.Module):
    """Two convolutions side by side, which `deploy` makes one of, at the sizes that it holds."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = before, width, 3
        self.wide, self.point = nn.Conv2d(before, width, 3, padding=1), nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.wide(x) + self.point(x))

    def deploy(self) -> nn.Module:
        fused = nn.Conv2d(self.in_channels, self.out_channels, self.kernel_size, padding=1)
        with torch.no_grad():
            fused.weight.copy_(self.wide.weight + nn.functional.pad(self.point.weight, (1, 1, 1, 1)))
            fused.bias.copy_(self.wide.bias + self.point.bias)
        return nn.Sequential(fused, nn.ReLU())


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_blocks_are_deployed_at_the_sizes_that_they_hold(tmp_path: Path) -> None:
    model = randomise(nn.Sequential(Branches(3, 6), Branches(6, 8), Branches(8, 4)))
    space = PruningSpace(model, (X,))
    assert "stays as it is" not in str(space)
    assert_removed_equals_masked(space, model, (X,))
    small = space.prune(half(space)).eval()
    sizes = [(block.in_channels, block.out_channels, block.kernel_size) for block in small]  # type: ignore[union-attr]
    assert sizes == [(3, 3, 3), (3, 4, 3), (4, 4, 3)]
    deployed = nn.Sequential(*(block.deploy() for block in small))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(deployed(X), small(X))
    save_pruned(small, tmp_path / "small.safetensors")
    again = load_pruned(tmp_path / "small.safetensors", model)
    assert [block.in_channels for block in again] == [3, 3, 4]  # type: ignore[union-attr]


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, each: int) -> None:
        super().__init__()
        self.heads, self.each = heads, each
        self.qkv, self.out = nn.Linear(dim, 3 * heads * each), nn.Linear(heads * each, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.each).permute(2, 0, 3, 1, 4)
        y: Tensor = self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Says its width and, as its inner module does, its number of heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, heads
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads, 5)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.attention(self.norm(x))
        return made


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_dim, self.depth = 12, 2
        self.stem, self.blocks = nn.Linear(4, 12), nn.Sequential(*(Block(12, 3) for _ in range(2)))
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem(x)).mean(1))
        return y


def test_width_of_a_residual_stream_follows_and_what_only_inner_modules_meet_is_listed() -> None:
    model, x = randomise(Transformer()), torch.randn(2, 7, 4)
    space = PruningSpace(model, (x,))
    stem = next(group for group in space.groups if group.name == "stem")
    small = space.prune({name: 0.5 if name == stem.name else 0.0 for name in space.distributions})
    assert isinstance(small, Transformer)
    assert (small.embed_dim, small.depth, [block.dim for block in small.blocks]) == (6, 2, [6, 6])  # type: ignore[union-attr]
    assert "stays as it is\n  blocks.0.num_heads, blocks.1.num_heads: what they count is not known" in str(space)
    assert "blocks.1.num_heads: what they count" in space._repr_html_()


class Rows(nn.Module):
    """Holds its widths in rows: a tuple, and a list that it shares with nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.widths, self.dims, self.kernel = (8, 6), [4, 8, 6, 2], (3, 3)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(x)))))
        return y


def test_widths_in_a_row_follow_each_its_own(tmp_path: Path) -> None:
    model, x = randomise(Rows()), torch.randn(5, 4)
    space = PruningSpace(model, (x,))
    small = space.prune(half(space))
    save_pruned(small, tmp_path / "small.safetensors")
    for each in (small, load_pruned(tmp_path / "small.safetensors", model)):
        assert isinstance(each, Rows)
        assert (each.widths, each.dims, each.kernel) == ((4, 3), [4, 4, 3, 2], (3, 3))
    assert isinstance(model, Rows)
    assert (model.widths, model.dims) == ((8, 6), [4, 8, 6, 2])
    assert_removed_equals_masked(space, model, (x,))


class Alike(nn.Module):
    """Two widths, and what is no width, that are as large as one number that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.length, self.classes = 6, 5, 2
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.mixed = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.mixed(torch.relu(self.second(torch.relu(self.first(x))))))
        z: Tensor = self.head(torch.relu(self.first(x))) + y.mean((1, 2))[:, None, None]
        return z


def test_numbers_that_several_widths_fit_stay_and_are_listed() -> None:
    model = randomise(Alike())
    space = PruningSpace(model, (torch.randn(3, 5, 4),))  # five positions, as many as `mixed` makes
    small = space.prune(half(space))
    assert isinstance(small, Alike)
    assert (small.dim, small.length, small.classes) == (6, 5, 2)
    assert "stays as it is\n  dim, length: what they count is not known" in str(space)


class Opaque(nn.Module):
    """Does not let its integers be looked at where a subclass asks; what it reads is then not known."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if type(self) is not Opaque:
            raise TypeError
        y = self.stem(x)
        z: Tensor = self.head(y / vars(self)["width"])
        return z


def test_nothing_follows_where_it_is_not_known_what_is_read() -> None:
    model, x = randomise(Opaque()), torch.randn(3, 4)
    space = PruningSpace(model, (x,))
    assert_removed_equals_masked(space, model, (x,))
    small = space.prune(half(space))
    assert isinstance(small, Opaque)
    assert small.width == 6
