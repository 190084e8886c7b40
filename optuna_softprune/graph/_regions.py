"""Regions of a forward pass under a context of torch (autocast, gradients on or off): export makes each one node."""

from __future__ import annotations

import contextlib
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.node import map_arg

from optuna_softprune.graph._operation import operation_name

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

AUTOCAST = "autocast"
# Node of a region -> position of its graph among the arguments; settings stand before it, operands behind it.
REGIONS = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}


def inline_regions(module: GraphModule) -> None:
    """Replace, in place, each region of a graph by its operations; those under autocast keep its settings as meta."""
    graph = module.graph
    for node in graph.nodes:
        # torch 2.14 forgets a user of what dead code has read too, when it drops that; a graph is edited by its users.
        for source in node.all_input_nodes:
            source.users.setdefault(node)
    for node in list(graph.nodes):
        position = REGIONS.get(operation_name(node)) if node.op == "call_function" else None
        if position is None:
            continue
        attribute: Any = node.args[position]
        inner = getattr(module, attribute.target)
        inline_regions(inner)
        users = list(node.users)
        if any(user.target is not operator.getitem for user in users):
            continue
        if any(each.op == "get_attr" for each in inner.graph.nodes):
            continue  # a branch or a loop inside: such a region stays one operation without a rule
        settings = (node.args[:position],) if operation_name(node) == "wrap_with_autocast" else ()
        operands = iter(node.args[position + 1 :])
        values: dict[Node, Any] = {}
        made: Any = ()
        with graph.inserting_before(node):
            for each in inner.graph.nodes:
                if each.op == "placeholder":
                    values[each] = next(operands)
                elif each.op == "output":
                    made = map_arg(each.args[0], values.__getitem__)
                else:
                    values[each] = copied = graph.node_copy(each, values.__getitem__)
                    copied.meta[AUTOCAST] = (*settings, *each.meta.get(AUTOCAST, ()))
        for user in users:
            user.replace_all_uses_with(made[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not attribute.users:
            graph.erase_node(attribute)


def region(node: Node) -> contextlib.ExitStack:
    """Return the context of autocast in which the forward pass runs a node."""
    stack = contextlib.ExitStack()
    for device, dtype, enabled, cache in node.meta.get(AUTOCAST, ()):
        stack.enter_context(torch.autocast(device, dtype, enabled=enabled, cache_enabled=cache))
    return stack
