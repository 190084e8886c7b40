"""Carry labels through the graph until no two units remain that must be removed together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from optuna_softprune.graph._operation import operation_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.fx import Node

    from optuna_softprune.graph._labels import Value
    from optuna_softprune.graph._propagate import Propagation, Rule
    from optuna_softprune.graph._stated import Held, StatedSize


def settle(p: Propagation, rule_of: Callable[[Any], Rule | None], stated: Mapping[StatedSize, Held]) -> None:
    """Repeat passes until nothing new is united and nothing left to choose.

    Unions are seen from the next pass on, which makes anew what has read labels that are others now. What the last
    pass leaves decides what is protected: in it no union is new and no choice open.

    Args:
        p: The layers of all nodes.
        rule_of: Target of a node -> rule.
        stated: Sizes that modules hold and that follow the widths that they state.
    """
    _one_pass(p, rule_of)  # in which rules name what they know
    p.stated = {size: n for size, n in stated.items() if (size.module, size.name) not in p.known_sizes}
    p.forget_what_asked_for_sizes()
    while True:
        _one_pass(p, rule_of)
        if p.labels.merge():
            continue
        if p.choices.make(len(p.labels.representative), p.labels.protected):
            continue
        p.state_what_is_left()
        if not p.labels.merge():
            return


def _one_pass(p: Propagation, rule_of: Callable[[Any], Rule | None]) -> None:
    p.begin()
    for node in p.nodes:
        if p.is_current(node):
            continue
        if node.op == "call_function":
            p.make(node, partial(_applied, p, node, rule_of(node.target)))
        elif node.op == "output":
            p.make(node, partial(_returned, p, node))
        elif node in p.values:
            p.make(node, partial(p.of_tensor, node))


def _returned(p: Propagation, node: Node) -> Value:
    for source in node.all_input_nodes:
        p.fix(p.value(source), "an output of the network")
    return ()


def _applied(p: Propagation, node: Node, rule: Rule | None) -> Value | list[Value]:
    name = operation_name(node)
    if rule is None:
        return _without_rule(p, node, f"`{name}` has no rule")
    if not all(isinstance(size, int) for out in _outputs(node) for size in out.shape):
        return _without_rule(p, node, f"`{name}` has a shape that depends on data")
    try:
        result = rule(p, node, *node.args, **node.kwargs)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        # An overload that the rule does not know: what it touches is as safe as behind an operation without rule.
        return _without_rule(p, node, f"`{name}` is used in a way that has no rule: {error}")
    if isinstance(result, list):
        return [p.settled(value) for value in result]
    settled = p.settled(result or ())
    p.follow(node, settled)
    return settled


def _without_rule(p: Propagation, node: Node, what: str) -> Value | list[Value]:
    """Protect all that an operation touches; what it makes cannot shrink."""
    where = p.module_path(node)
    reason = f"{what} (in `{where}`)" if where else what
    for source in node.all_input_nodes:
        for value in p.outputs(source):
            p.fix(value, reason)
    if node.all_input_nodes:  # else it is a tensor made here, which is all that there is to say
        p.without_rule[node] = reason
    return [() for _ in _outputs(node)] if isinstance(node.meta.get("val"), (list, tuple)) else ()


def _outputs(node: Node) -> list[Tensor]:
    value = node.meta.get("val")
    found = value if isinstance(value, (list, tuple)) else [value]
    return [each for each in found if isinstance(each, Tensor)]
