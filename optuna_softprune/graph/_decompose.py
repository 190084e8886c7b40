"""Operations without a rule, written out in those that torch makes them of: a rule is needed for primitives only."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from optuna_softprune.graph._regions import AUTOCAST
from optuna_softprune.graph._rules import has_rule, rule_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import Graph, Node

# Where the code of a decomposed operation stands in the user's network.
PLACE = ("nn_module_stack", "stack_trace", AUTOCAST)


def decompose(graph: Graph) -> None:
    """Replace, in place, the operations of an exported graph that have no rule by what torch makes them of."""
    without = [node for node in graph.nodes if _is_decomposable(node) and not has_rule(node)]
    if not without:
        return
    known: Any = torch.export.default_decompositions()
    table = {each: made for each, made in known.items() if rule_of(each) is None}
    for node in without:
        parts = _parts(node, table)
        if parts is not None and all(each.op == "call_function" for each in parts.nodes if each.op not in ENDS):
            _replace(graph, node, parts)


ENDS = ("placeholder", "output")


def _is_decomposable(node: Node) -> bool:
    """Whether a node is an operation that neither writes nor draws random numbers."""
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
    )


def _parts(node: Node, table: dict[Any, Callable[..., Any]]) -> Graph | None:
    """Return the graph of a node's operation on its inputs, or None if it is a single one again."""
    sources = node.all_input_nodes
    operation: Any = node.target

    def run(*values: Any) -> Any:
        given = dict(zip(sources, values, strict=True))
        return operation(*map_arg(node.args, given.__getitem__), **map_arg(node.kwargs, given.__getitem__))

    try:
        # Nothing is written in place: what torch may do with memory of its own is not safe with values that are kept.
        pure = make_fx(torch.func.functionalize(run), decomposition_table=table)
        parts = pure(*(source.meta["val"] for source in sources)).graph
    except Exception:
        return None  # what torch cannot trace by itself stays one operation without a rule
    return None if any(each.target is operation for each in parts.nodes) else parts


def _replace(graph: Graph, node: Node, parts: Graph) -> None:
    values: dict[Node, Node] = {}
    sources = iter(node.all_input_nodes)
    place = {key: node.meta[key] for key in PLACE if key in node.meta}
    with graph.inserting_before(node):
        for each in parts.nodes:
            if each.op == "placeholder":
                values[each] = next(sources)
            elif each.op == "output":
                made = map_arg(each.args[0], values.__getitem__)
            else:
                values[each] = graph.node_copy(each, values.__getitem__)
                values[each].meta.update(place)
    if isinstance(made, (list, tuple)):
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(made[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
    else:
        node.replace_all_uses_with(made)
    graph.erase_node(node)
