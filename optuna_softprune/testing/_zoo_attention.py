"""Attention in the ways that it is written: whole heads are the units of its projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class OneHead(nn.Module):
    """One head with the scale that is derived from its width: nothing inside of it can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.qkv = nn.Linear(6, 9)
        self.out = nn.Linear(3, 6)
        self.up = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        y: Tensor = self.head(F.relu(self.up(x)))
        return y


class Heads(nn.Module):
    """Heads of packed queries, keys and values, with the fused operation and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 5)
        self.qkv = nn.Linear(5, 3 * 3 * 2)
        self.out = nn.Linear(3 * 2, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, -1, 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z: Tensor = self.head(x + self.out(y.transpose(1, 2).flatten(2)))
        return z


class EagerHeads(nn.Module):
    """Heads of separate projections, written with products, a bias table of relative positions and a softmax."""

    offsets: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 5)
        self.query, self.key, self.value = (nn.Linear(5, 4 * width) for width in (2, 2, 3))
        self.bias = nn.Embedding(9, 4)
        self.register_buffer("offsets", torch.arange(5)[:, None] - torch.arange(5) + 4)
        self.out = nn.Linear(4 * 3, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q = self.query(x).view(*x.shape[:2], -1, 2).transpose(1, 2)
        k = self.key(x).view(*x.shape[:2], -1, 2).transpose(1, 2)
        v = self.value(x).view(*x.shape[:2], -1, 3).transpose(1, 2)
        scores = q @ k.mT / 2**0.5 + self.bias(self.offsets).permute(2, 0, 1)
        y = scores.softmax(-1) @ v
        z: Tensor = self.head(x + self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1)))
        return z


class GroupedQueries(nn.Module):
    """Two heads of queries share one of keys and values; positions are rotated into both, after an RMS norm."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.stem = nn.Linear(4, 5)
        self.query, self.key, self.value = (nn.Linear(5, heads * 4, bias=False) for heads in (6, 3, 3))
        self.norm = nn.RMSNorm(4)
        self.out = nn.Linear(6 * 4, 5)
        self.head = nn.Linear(5, 2)

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2])[:, None] / torch.tensor([1.0, 10.0]).repeat(2)
        halves = torch.cat([-x[..., 2:], x[..., :2]], -1)
        return x * angle.cos().to(x) + halves * angle.sin().to(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = (each(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for each in (self.query, self.key, self.value))
        q, k = self.rotated(self.norm(q)), self.rotated(self.norm(k))
        if not self.fused:
            b, h, t, d = k.shape
            k, v = (each[:, :, None].expand(b, h, 2, t, d).reshape(b, h * 2, t, d) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.fused)
        z: Tensor = self.head(x + self.out(y.transpose(1, 2).flatten(2)))
        return z


class TalkingHeads(nn.Module):
    """A layer mixes the scores of heads, so heads of queries and of values are groups of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, heads * 2) for heads in (3, 3, 5))
        self.talk = nn.Linear(3, 5)
        self.out = nn.Linear(5 * 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).view(*x.shape[:2], -1, 2).transpose(1, 2) for each in (self.query, self.key, self.value))
        scores = self.talk((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        z: Tensor = self.out(y)
        return z


class LinearAttention(nn.Module):
    """Keys times values first, by index letters; norms and softmax over the positions in a head."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 3 * width) for width in (2, 2, 4))
        self.out = nn.Linear(3 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (-1, 2)).softmax(-1)
        k = F.normalize(self.key(x).unflatten(-1, (-1, 2)), dim=1)
        v = self.value(x).unflatten(-1, (-1, 4))
        state = torch.einsum("bthd,bthe->bhde", k, v)
        y = torch.einsum("bthd,bhde->bthe", q, state) / torch.einsum("bthd,bhd->bth", q, k.sum(1))[..., None]
        z: Tensor = self.out(y.flatten(2))
        return z


class ChannelAttention(nn.Module):
    """Channels of a head attend to each other, with a temperature for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 3 * 3 * 2)
        self.temperature = nn.Parameter(torch.rand(3, 1, 1) + 0.5)
        self.out = nn.Linear(3 * 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, -1, 2).permute(2, 0, 3, 4, 1)
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT) * self.temperature
        y = (scores.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2)
        z: Tensor = self.out(y)
        return z


class CrossAttention(nn.Module):
    """Queries of a learned table read another input; with a stated scale single channels of the one head can go."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, 5))
        self.query, self.key, self.value = nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(4, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, memory: Tensor, mask: Tensor) -> Tensor:
        q = self.query(self.table).expand(memory.shape[0], -1, -1)
        k, v = self.key(memory), self.value(memory)
        scores = torch.baddbmm(mask, q, k.mT, alpha=0.3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        z: Tensor = self.out(y + torch.bmm(scores.softmax(-1), v))
        return z


ATTENTION: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "one_head",
        OneHead,
        lambda: (normal(2, 5, 4),),
        {
            "stem": (6, "stem qkv:1 out up:1"),
            "up": (8, "up head:1"),
        },
    ),
    ZooNetwork(
        "heads",
        Heads,
        lambda: (normal(2, 5, 4),),
        {
            "stem": (5, "stem qkv:1 out head:1"),
            "qkv": (3, "qkv out:1"),
        },
    ),
    ZooNetwork(
        "eager_heads",
        EagerHeads,
        lambda: (normal(2, 5, 4),),
        {
            "stem": (5, "stem query:1 key:1 value:1 out head:1"),
            "query": (4, "query key value bias:1 out:1"),
        },
    ),
    *(
        ZooNetwork(
            f"grouped_queries_{'fused' if fused else 'repeated'}",
            lambda fused=fused: GroupedQueries(fused=fused),  # type: ignore[misc]
            lambda: (normal(2, 5, 4),),
            {
                "stem": (5, "stem query:1 key:1 value:1 out head:1"),
                "query": (3, "query key value out:1"),
            },
        )
        for fused in (False, True)
    ),
    ZooNetwork(
        "talking_heads",
        TalkingHeads,
        lambda: (normal(2, 5, 4),),
        {
            "query": (3, "query key talk:1"),
            "value": (5, "value talk out:1"),
        },
    ),
    ZooNetwork(
        "linear_attention",
        LinearAttention,
        lambda: (normal(2, 5, 4),),
        {
            "query": (3, "query key value out:1"),
        },
    ),
    ZooNetwork(
        "channel_attention",
        ChannelAttention,
        lambda: (normal(2, 5, 4),),
        {
            "qkv": (3, "qkv temperature:0 out:1"),
        },
    ),
    ZooNetwork(
        "cross_attention",
        CrossAttention,
        lambda: (normal(2, 5, 4), normal(2, 3, 5)),
        {
            "table": (5, "table:2 query:1"),
            "query": (6, "query key"),
            "value": (7, "value out:1"),
        },
    ),
)
