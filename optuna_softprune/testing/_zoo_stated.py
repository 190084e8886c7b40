"""Forward passes that state sizes which modules hold as integers: these follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class StatedHeads(nn.Module):
    """As many heads as each is wide, and a width that a split states."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = self.head_dim = 3
        self.inner = 9
        self.stem = nn.Linear(4, 5)
        self.qkv = nn.Linear(5, 3 * 9)
        self.out = nn.Linear(9, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, t, _ = x.shape
        q, k, v = (
            each.view(b, t, self.num_heads, self.head_dim).transpose(1, 2)
            for each in self.qkv(x).split(self.inner, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, self.inner)
        z: Tensor = self.head(x + self.out(y))
        return z


class TorchEncoder(nn.Module):
    """Torch's own encoder layer: projections are as wide as their input, so a unit is a head with as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.layer = nn.TransformerEncoderLayer(6, 3, 8, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layer(self.stem(x)))
        return y


class StatedWidths(nn.Module):
    """Widths of the network's own: in a reshape, in pieces of unequal length, in slices, and in a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.hidden, self.first = 5 * 16, 6, 4
        self.parts = (3, 2, 2)
        self.scale_shape = (5, 1, 1)
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(5))
        self.code = nn.Linear(5 * 16, 7)
        self.mixed = nn.Linear(2, 2)
        self.state = nn.Linear(7, 6)
        self.join = nn.Linear(6, 10)
        self.few, self.rest = nn.Linear(4, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)) * self.scale.view(self.scale_shape)
        x = self.code(x.reshape(-1, self.in_features))
        a, b, c = torch.split(x, self.parts, dim=1)  # type: ignore[arg-type]
        x = torch.cat([a.sin(), self.mixed(b), c], 1)
        state = torch.zeros(len(x), self.hidden)
        for _ in range(2):
            state = torch.tanh(state + self.state(x))
        x = self.join(state)
        y: Tensor = self.few(x[:, : self.first]) + self.rest(x[:, self.first :])
        return y


class Cell(nn.Module):
    """A state that is mixed with a context; it holds its width for whoever makes the first state."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.mix = nn.Linear(6 + 4, 6)

    def forward(self, state: Tensor, context: Tensor) -> Tensor:
        return torch.tanh(state + self.mix(torch.cat([state, context], 1)))


class SizeOfAPart(nn.Module):
    """A first state as wide as a part of the network says, and a context that is all the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()
        self.stem = nn.Linear(3, 10)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        state, context = torch.split(x, [self.cell.hidden, x.shape[1] - self.cell.hidden], 1)
        for _ in range(2):
            state = self.cell(state, context.sin())
        y: Tensor = self.head(state)
        return y


STATED: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "stated_heads",
        StatedHeads,
        lambda: (normal(2, 5, 4),),
        {
            "stem": (5, "stem qkv:1 out head:1"),
            "qkv": (3, "qkv out:1"),
        },
    ),
    ZooNetwork(
        "torch_encoder",
        TorchEncoder,
        lambda: (normal(2, 5, 4),),
        {
            "stem": (
                3,
                "stem layer.norm1 layer.norm2 layer.self_attn.in_proj_weight:0 layer.self_attn.in_proj_weight:1 "
                "layer.self_attn.in_proj_bias:0 layer.self_attn.out_proj layer.self_attn.out_proj:1 layer.linear1:1 "
                "layer.linear2 head:1",
            ),
            "layer.linear1": (8, "layer.linear1 layer.linear2:1"),
        },
    ),
    ZooNetwork(
        "stated_widths",
        StatedWidths,
        lambda: (normal(2, 1, 4, 4),),
        {
            "conv": (5, "conv scale:0 code:1"),
            "code/1": (3, "code state:1"),
            "code/2": (2, "code mixed:1"),
            "code/3": (2, "code state:1"),
            "mixed": (2, "mixed state:1"),
            "state": (6, "state join:1"),
            "join/1": (4, "join few:1"),
            "join/2": (6, "join rest:1"),
        },
    ),
    ZooNetwork(
        "size_of_a_part",
        SizeOfAPart,
        lambda: (normal(2, 3),),
        {
            "stem/1": (6, "stem cell.mix cell.mix:1 head:1"),
            "stem/2": (4, "stem cell.mix:1"),
        },
    ),
)
