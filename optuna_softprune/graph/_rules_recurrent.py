"""Rules of recurrent layers: a hidden unit goes with its gates, in all layers and directions at once.

| symbol | meaning | weights it is an axis of |
| --- | --- | --- |
| g | gates: 4 of an LSTM, 3 of a GRU, 1 of a plain layer | |
| h | hidden units | weight_ih (g h, i), weight_hh (g h, o), biases (g h,), weight_hr (o, h) |
| o | what a direction puts out: h, or the projection of it | weight_hr (o, h) |
| i | what a layer reads: the input, or o of all directions of the layer below | weight_ih (g h, i) |

A module holds one hidden size for all of its layers and directions, so they lose the same units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_softprune.graph._labels import Value, along

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.fx import Node

    from optuna_softprune.graph._propagate import Propagation, Rule
    from optuna_softprune.graph._reasons import Reason

UNIT = "a hidden unit of a recurrent layer"
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(name: str) -> Rule:
    """Return the rule of a recurrent layer."""

    def rule(
        p: Propagation,
        node: Node,
        x: Node,
        states: Any,
        weights: Sequence[Node],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> list[Value]:
        directions = 2 if bidirectional else 1
        each = len(weights) // (num_layers * directions)
        cells = [weights[i : i + each] for i in range(0, len(weights), each)]
        projected = each % 2 == 1
        hidden = p.labels_of(cells[0][0], 0, UNIT).reshape(GATES[name], -1)[0]
        out = p.labels_of(cells[0][-1], 0, UNIT) if projected else hidden
        if projected:  # torch tells a projection by its width, which must stay below that of the hidden state
            p.labels.protect(hidden, "more than the projection of a recurrent layer")
        width, rest = p.channel(p.value(x), len(p.shape(x)) - 1, UNIT)
        p.fix(rest, "a recurrent layer goes along it")
        for i, cell in enumerate(cells):
            read = width if i < directions else out.repeat(directions)
            _tie(p, cell, GATES[name], read, hidden, out, p.origin(x))
        initial = states if isinstance(states, (list, tuple)) else [states]
        for state, labels in zip(initial, (out, hidden), strict=False):
            found, _ = p.channel(p.value(state), len(p.shape(state)) - 1, UNIT)
            p.unite(found, labels, p.origin(state))
        p.attribute(node, "input_size", width)
        p.attribute(node, "hidden_size", hidden)
        if projected:
            p.attribute(node, "proj_size", out)
        steps = [(x, axis) for axis in range(len(p.shape(x)) - 1)]
        p.macs[node] = [[*steps, (weight, 0), (weight, 1)] for weight in weights if len(p.shape(weight)) == 2]
        made = (out.repeat(directions), out, hidden)
        return [
            (along(labels, value.dim() - 1, value.shape),)
            for labels, value in zip(made, node.meta["val"], strict=False)
        ]

    return rule


def _tie(
    p: Propagation, cell: Sequence[Node], gates: int, read: Tensor | None, hidden: Tensor, out: Tensor, origin: Reason
) -> None:
    """Tie the weights of one direction of one layer."""
    of_input, of_state, *more = cell
    for weight in (of_input, of_state):
        p.take_sides(weight, 1, 0)
    for each in cell[: len(cell) // 2 * 2]:
        p.unite(p.labels_of(each, 0, UNIT).reshape(gates, -1), hidden, UNIT)
    p.unite(read, p.labels_of(of_input, 1, UNIT), origin)
    p.unite(out, p.labels_of(of_state, 1, UNIT), UNIT)
    if len(cell) % 2:
        p.take_sides(more[-1], 1, 0)
        p.unite(out, p.labels_of(more[-1], 0, UNIT), UNIT)
        p.unite(hidden, p.labels_of(more[-1], 1, UNIT), UNIT)
