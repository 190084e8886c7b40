"""Which groups a value inside a network depends on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_softprune.graph._groups import FIXED
from optuna_softprune.graph._operation import operation_name
from optuna_softprune.graph._rules import STATISTICS, mixed_axes, rule_of
from optuna_softprune.graph._rules_recurrent import GATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import Node

    from optuna_softprune.graph._groups import Network, Units

Groups = frozenset[int]
# Contractions that read zeros in the place of removed units -> in which argument; of `einsum` in the first of a list.
CONTRACTIONS = {"addmm": 1, "baddbmm": 1, "einsum": 1, "linear": 0, "matmul": 0, "mm": 0, "bmm": 0}
CONTRACTIONS |= {f"conv{transposed}{n}d": 0 for transposed in ("", "_transpose") for n in (1, 2, 3)}
CONTRACTIONS |= {"scaled_dot_product_attention": 0, "_grouped_mm": 0, "grouped_mm_fallback": 0}
# What else makes a value of several channels, whichever axes its arguments state.
NORMS = frozenset({"layer_norm", "group_norm", "rms_norm"})
MIXING = NORMS.union(CONTRACTIONS, GATES)


def dependences(network: Network, also: Mapping[str, Groups]) -> dict[Node, Groups]:
    """Return for each node the groups (positions) that it depends on, be it only in its shape.

    Args:
        network: The groups.
        also: Qualified name of a parameter or buffer -> groups that it depends on besides those that cut it.
    """
    of_tensor: dict[str, Groups] = dict(also)
    for (name, _), units in network.tensors.items():
        of_tensor[name] = of_tensor.get(name, Groups()) | groups_of(network, units)
    found: dict[Node, Groups] = {}
    for node in network.exported.graph.nodes:
        own = of_tensor.get(network.exported.tensors.get(node.name, ""), Groups())
        if not node.all_input_nodes:  # made of nothing but a shape
            own = own.union(*(groups_of(network, units) for _, units in network.nodes.get(node, ())))
        found[node] = own.union(*(found[source] for source in node.all_input_nodes))
    return found


def value_dependences(network: Network) -> dict[Node, Groups]:
    """Return for each node the groups that change what is kept of it: those whose units were mixed into it."""
    found: dict[Node, Groups] = {}
    for node in network.exported.graph.nodes:
        mixed = Groups()
        if node.op == "call_function":
            name = operation_name(node)
            everywhere = name in MIXING or _is_of_batch(node)
            somewhere = mixed_axes(node)
            for source in node.all_input_nodes:
                # What a weight reads is what its operand has; what it makes is not mixed.
                axes = network.nodes.get(source, ()) if source.name not in network.exported.tensors else ()
                mixed = mixed.union(*(groups_of(network, units) for i, units in axes if everywhere or i in somewhere))
        found[node] = mixed.union(*(found[source] for source in node.all_input_nodes))
    return found


def normalised_groups(network: Network) -> Groups:
    """Return the groups (positions) over whose units something is normalised, or another statistic is taken.

    Over very few units it may be a constant, which hides what it was made of.
    """
    found = Groups()
    for node in network.exported.graph.nodes:
        if node.op == "call_function":
            x, axes = _normalised(node)
            found = found.union(*(groups_of(network, units) for i, units in network.nodes.get(x, ()) if i in axes))
    return found


def _normalised(node: Node) -> tuple[Any, Sequence[int]]:
    """Return the operand over which an operation takes statistics, if it does, and over which of its axes."""
    name = operation_name(node)
    position = 1 if name == "scaled_dot_product_attention" else 0
    x: Any = node.args[position] if len(node.args) > position else None
    if position == 1:  # a softmax over keys
        return x, [x.meta["val"].dim() - 2]
    if name == "einsum":
        return _multiplied_by_itself(node)
    if name in NORMS or name == "instance_norm" or _is_of_batch(node):
        return x, range(x.meta["val"].dim())
    return (x, mixed_axes(node)) if rule_of(node.target) in STATISTICS else (None, ())


def _multiplied_by_itself(node: Node) -> tuple[Any, Sequence[int]]:
    """Return the operand of which `einsum` sums squares, if it does, and over which of its axes."""
    equation: Any = node.args[0]
    read, _, out = equation.replace(" ", "").partition("->")
    operands: Any = node.args[1]
    for (x, one), (y, other) in itertools.combinations(zip(operands, read.split(","), strict=True), 2):
        summed = [axis for axis, (a, b) in enumerate(zip(one, other, strict=False)) if a == b and a not in out]
        if x is y and summed:
            return x, summed
    return None, ()


def _is_of_batch(node: Node) -> bool:
    """Whether a node normalises by the statistics of its batch."""
    return operation_name(node) == "batch_norm" and bool(node.args[5])


def groups_of(network: Network, units: Units) -> Groups:
    """Return the groups (positions) that the units of an axis belong to."""
    starts = [group.first_unit for group in network.groups]
    return Groups((np.searchsorted(starts, np.unique(units[units != FIXED]), side="right") - 1).tolist())
