"""Recurrent layers: a hidden unit goes in all layers and directions, as the module holds one hidden size."""

from __future__ import annotations

from torch import Tensor, nn

from optuna_softprune.testing._zoo_network import ZooNetwork, normal


class Recurrent(nn.Module):
    """A recurrent layer of some kind between two linear layers; its last state is read too."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 5)
        self.cell = cell
        directions = 2 if cell.bidirectional else 1
        self.head = nn.Linear((cell.proj_size or 6) * directions, 2)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.cell(self.stem(x).relu())
        z: Tensor = self.head(y)
        last: Tensor = self.last(state[-1][0] if isinstance(state, tuple) else state[0])
        return z.mean(0) + last


class Cells(nn.Module):
    """Cells of recurrent layers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Linear(3, 5), nn.LSTMCell(5, 6), nn.GRUCell(6, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = None, None
        for step in self.stem(x).unbind(0):
            a = self.a(step, a)
            b = self.b(a[0], b)
        y: Tensor = self.head(b)
        return y


def _weights(count: int, suffixes: str, axes: dict[str, str]) -> str:
    return " ".join(
        f"cell.{name}_l{layer}{suffix}:{axis}"
        for layer in range(count)
        for suffix in suffixes.split(",")
        for name, found in axes.items()
        for axis in found
    )


_OWN = {"weight_ih": "0", "weight_hh": "01", "bias_ih": "0", "bias_hh": "0"}
RECURRENT: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "lstm",
        lambda: Recurrent(nn.LSTM(5, 6, num_layers=2)),
        lambda: (normal(4, 2, 3),),
        {
            "stem": (5, "stem cell.weight_ih_l0:1"),
            "cell": (6, f"{_weights(2, '', _OWN)} cell.weight_ih_l1:1 head:1 last:1"),
        },
    ),
    ZooNetwork(
        "lstm_both_ways_projected",
        lambda: Recurrent(nn.LSTM(5, 6, num_layers=2, bidirectional=True, proj_size=4, bias=False)),
        lambda: (normal(4, 2, 3),),
        {
            "stem": (5, "stem cell.weight_ih_l0:1 cell.weight_ih_l0_reverse:1"),
            "cell.weight_hr_l0": (
                4,
                f"{_weights(2, ',_reverse', {'weight_hh': '1', 'weight_hr': '0'})} cell.weight_ih_l1:1 "
                "cell.weight_ih_l1_reverse:1 head:1",
            ),
        },
    ),
    ZooNetwork(
        "gru",
        lambda: Recurrent(nn.GRU(5, 6, bidirectional=True)),
        lambda: (normal(4, 2, 3),),
        {
            "stem": (5, "stem cell.weight_ih_l0:1 cell.weight_ih_l0_reverse:1"),
            "cell": (6, f"{_weights(1, ',_reverse', _OWN)} head:1 last:1"),
        },
    ),
    ZooNetwork(
        "plain_recurrent",
        lambda: Recurrent(nn.RNN(5, 6)),
        lambda: (normal(4, 2, 3),),
        {
            "stem": (5, "stem cell.weight_ih_l0:1"),
            "cell": (6, f"{_weights(1, '', _OWN)} head:1 last:1"),
        },
    ),
    ZooNetwork(
        "cells",
        Cells,
        lambda: (normal(4, 2, 3),),
        {
            "stem": (5, "stem a.weight_ih:1"),
            "a": (6, "a.weight_ih:0 a.weight_hh:0 a.weight_hh:1 a.bias_ih:0 a.bias_hh:0 b.weight_ih:1"),
            "b": (7, "b.weight_ih:0 b.weight_hh:0 b.weight_hh:1 b.bias_ih:0 b.bias_hh:0 head:1"),
        },
    ),
)
