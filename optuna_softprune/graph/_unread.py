"""Integers that modules hold, alone or in a row, and no forward pass reads: a method that fuses or deploys may.

One follows a width of what its module reads or makes if nothing else there is as long. Where several widths are, or
only something inside of the module's own parts is, it stays as it is and is listed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor, nn

from optuna_softprune.graph._stated import HOLDERS, StatedSize, sizes_in

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch.fx import Node

    from optuna_softprune.graph._groups import Network, Units


class _Values(NamedTuple):
    """Nodes of a graph as a module meets them.

    Attributes:
        own: What it reads, makes, or hands from one of its parts to another.
        inside: What is made in its forward pass, its parts' included.
    """

    own: dict[Node, None]
    inside: dict[Node, None]


def follow_unread(network: Network, model: nn.Module, read: Collection[StatedSize] | None) -> Network:
    """Return the network in which integers that no forward pass reads follow the widths that they can only mean.

    Args:
        network: The groups, proven.
        model: The dense network.
        read: The sizes that its forward pass reads; None: it is not known which.
    """
    unread = _unread(network, model, read) if read is not None else {}
    if not unread:
        return network
    values = _values(network, model)
    follows: dict[tuple[str, str, int | None], Units] = {}
    ambiguous: dict[str, None] = {}  # each attribute once
    for size, length in unread.items():
        own, inside = values.get(size.module, _Values({}, {}))
        meanings = _meanings(network, own, length)
        units = next(iter(meanings)) if len(meanings) == 1 else None
        if units is not None:
            follows[size] = np.array(units)
        elif any(_meanings(network, own | inside, length)):
            ambiguous[f"{size.module}.{size.name}".lstrip(".")] = None
    return replace(network, attributes={**network.attributes, **follows}, ambiguous=tuple(ambiguous))


def _unread(network: Network, model: nn.Module, read: Collection[StatedSize]) -> dict[StatedSize, int]:
    """Return the integers that modules of the user's hold, that nothing reads and that follow nothing yet."""
    known = {(path, name) for path, name, _ in (*read, *network.attributes)}
    return {
        StatedSize(path, name, position): length
        for path, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn.")
        for name, value in vars(module).items()
        if type(value) in HOLDERS and (path, name) not in known
        for position, length in sizes_in(value)
        if length > 1
    }


def _meanings(network: Network, nodes: Mapping[Node, None], length: int) -> set[tuple[int, ...] | None]:
    """Return the units of axes of a length, in ascending order; None for what cannot shrink."""
    found: set[tuple[int, ...] | None] = set()
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and length in value.shape:
            axes = dict(network.nodes.get(node, ()))
            units = [axes.get(axis) for axis, each in enumerate(value.shape) if each == length]
            found.update(None if each is None else tuple(np.sort(each).tolist()) for each in units)
    return found


def _values(network: Network, model: nn.Module) -> dict[str, _Values]:
    """Return path of a module -> the values that it meets."""
    first = {id(module): path for path, module in model.named_modules()}
    paths = {path: first[id(module)] for path, module in model.named_modules(remove_duplicate=False)}
    found = {path: _Values({}, {}) for path in first.values()}

    def around(node: Node) -> Sequence[str]:
        stack = node.meta.get("nn_module_stack") or {}
        return [paths[path] for path, _ in stack.values() if path in paths]

    for node in network.exported.graph.nodes:
        if node.op == "output" or node.name in network.exported.tensors:
            continue
        makers = around(node)
        for path in makers:
            found[path].inside[node] = None
        # Of those that the value leaves and enters, and the one in whose forward pass it is handed on.
        for user in node.users:
            readers = around(user)
            common = sum(one == other for one, other in zip(makers, readers, strict=False))
            start = max(common - 1, 0)
            for path in (*makers[start:], *readers[start:]):
                found[path].own[node] = None
        if makers:
            found[makers[-1]].own[node] = None
    return found
