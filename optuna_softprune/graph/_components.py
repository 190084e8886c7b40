"""Named parts of a network, and what lies in each: every parameter and every operation in one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.fx import Node

    from optuna_softprune.graph._groups import Network

# What no component holds.
REST = "(rest)"


@dataclass(frozen=True, slots=True)
class Part:
    """What a component holds.

    Attributes:
        parameters: Qualified names of its parameters.
        nodes: Graph nodes of the operations with multiply-accumulates in its forward passes.
    """

    parameters: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


def component_paths(model: nn.Module, components: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the prefix of qualified names -> component, longest prefix first."""
    names = {id(module): name for name, module in components.items()}
    paths = {path: names[id(m)] for path, m in model.named_modules(remove_duplicate=False) if id(m) in names}
    return {f"{path}." if path else "": paths[path] for path in sorted(paths, key=lambda path: len(path), reverse=True)}


def component_of(name: str, paths: Mapping[str, str]) -> str | None:
    """Return the innermost component that a qualified name of a tensor or module lies in."""
    return next((component for path, component in paths.items() if f"{name}.".startswith(path)), None)


def parts(model: nn.Module, network: Network, components: Mapping[str, nn.Module]) -> dict[str, Part]:
    """Return component -> what it holds, and `REST` -> what none of them holds.

    A component inside of another one has what lies in it, the outer one the rest. A tensor under several names
    lies where its first name does.
    """
    paths = component_paths(model, components)
    found = {name: Part() for name in [*components, REST]}
    for name, _ in model.named_parameters():
        found[component_of(name, paths) or REST].parameters.append(name)
    for node in (*network.macs, *network.constant_macs):
        stack = node.meta.get("nn_module_stack")
        path: str = list(stack.values())[-1][0] if stack else ""
        found[component_of(path, paths) or REST].nodes.append(node)
    return found
