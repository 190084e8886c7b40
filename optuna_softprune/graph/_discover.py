"""Find the groups of a network."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optuna_softprune.graph._components import component_of, component_paths
from optuna_softprune.graph._groups import FIXED, UNUSED, Group, Network, Protected, Side, Slices, that_shrink
from optuna_softprune.graph._labels import is_open, vector
from optuna_softprune.graph._network import memory_ties, tensors
from optuna_softprune.graph._passes import settle
from optuna_softprune.graph._propagate import Propagation
from optuna_softprune.graph._rules import rule_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import nn
    from torch.fx import Node

    from optuna_softprune.graph._export import ExportedGraph
    from optuna_softprune.graph._stated import Held, StatedSize

    IntArray = NDArray[np.int64]


# What a module calls its weight, or what it computes that from (parametrisations, `weight_norm`, `nn.utils.prune`), and
# the weights of recurrent layers and of attention.
WEIGHT_NAMES = frozenset(["weight", "weight_g", "weight_v", "weight_orig", "parametrised"])
WEIGHT_NAMES |= {"weight_ih", "weight_hh", "weight_ih_l0", "weight_hh_l0", "in_proj_weight"}


def discover(
    model: nn.Module,
    exported: ExportedGraph,
    components: Mapping[str, nn.Module],
    stated: Mapping[StatedSize, Held] = MappingProxyType({}),
    training: ExportedGraph | None = None,
) -> Network:
    """Return the groups of `model`, as its exported graph couples them.

    Args:
        model: The network.
        exported: Its graph.
        components: Name -> part of the network.
        stated: Sizes that modules hold and that follow the widths that they state.
        training: The graph of train mode; what it couples is coupled too.
    """
    propagation = Propagation(model, exported, training)
    settle(propagation, rule_of, stated)
    labels = propagation.labels
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(model)}
    for name, other in memory_ties(model).items():
        for axis, length in enumerate(shapes[name]):
            labels.protect(labels.of_tensor(name, axis, length), f"shares its memory with `{other}`")
    classes, reasons = labels.classes()

    buffers = dict(model.named_buffers())
    # In execution order, parameters first: the first of a group names it.
    ordered = sorted(labels.tensors.items(), key=lambda item: item[0][0] in buffers)
    by_tensor = {axis: classes[slice(*place)] for axis, place in ordered}
    by_attribute = {attribute: classes[slice(*place)] for attribute, place in labels.attributes.items()}
    settled = {
        node: [found for found in value if not is_open(found)]
        for node, value in propagation.values.items()
        if isinstance(value, tuple) and node.graph is exported.graph and node.op != "output"
    }
    by_node = {
        node: tuple((found.axes[0], classes[vector(found.labels, found.axes[0]).numpy()]) for found in value)
        for node, value in settled.items()
    }
    on_nodes = [axis for axes in by_node.values() for _, axis in axes]
    numbering = _number(by_tensor, [*by_tensor.values(), *by_attribute.values(), *on_nodes], len(classes))

    tensor_units = {place: numbering.unit_of[axis] for place, axis in by_tensor.items()}
    network = Network(
        exported=exported,
        groups=_groups(propagation, tensor_units, numbering, component_paths(model, components)),
        protected=tuple(_protected(propagation, shapes, tensor_units, reasons)),
        shapes=shapes,
        tensors=that_shrink(tensor_units),
        attributes=that_shrink({place: numbering.unit_of[axis] for place, axis in by_attribute.items()}),
        nodes={
            node: tuple(
                (axis, numbering.unit_of[found]) for axis, found in axes if (numbering.unit_of[found] != FIXED).any()
            )
            for node, axes in by_node.items()
        },
        macs={node: propagation.macs[node] for node in exported.graph.nodes if node in propagation.macs},
        constant_macs={
            node: found
            for node in exported.graph.nodes
            if node not in propagation.macs and (found := _measured_macs(node))
        },
    )
    # Units that eval mode never meets have no importance, and no metric would miss them.
    used = {exported.tensors.get(node.name) for node in exported.graph.nodes if node.users}
    idle = {
        group.name: "used in train mode only"
        for group in network.groups
        if not any(each.tensor in used for each in group.slices)
    }
    # Positions of a buffer that nothing reads: without them nothing is smaller, and longer inputs fail.
    idle |= {
        group.name: "no parameter has it"
        for group in network.groups
        if all(each.tensor in buffers for each in group.slices)
    }
    return network.without(idle) if idle else network


@dataclass(frozen=True, slots=True)
class _Numbering:
    """Class -> unit number, and the first unit and size of each group."""

    unit_of: IntArray
    groups: tuple[tuple[int, int], ...]


def _number(by_tensor: Mapping[Any, IntArray], axes: Iterable[IntArray], classes: int) -> _Numbering:
    """Number the units: those that touch the same places equally often are a group.

    The signature of a class is the sum of a random 64-bit number for each of its places, modulo 2**64.
    """
    random = np.random.default_rng(0)
    signature = np.zeros(classes, np.uint64)
    for axis in axes:
        np.add.at(signature, axis, random.integers(1, 2**64 - 1, dtype=np.uint64))
    candidates = np.unique(np.concatenate([np.zeros(1, np.int64), *by_tensor.values()]))
    candidates = candidates[candidates != 0]
    _, first, group = np.unique(signature[candidates], return_index=True, return_inverse=True)
    # A class is named by its smallest label and labels are made in execution order: so are groups and units.
    rank = np.argsort(np.argsort(first))[group]
    order = np.argsort(rank, kind="stable")
    unit_of = np.full(classes, FIXED, np.int64)
    unit_of[candidates[order]] = np.arange(len(candidates))
    sizes = np.bincount(rank, minlength=len(first)).tolist()
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return _Numbering(unit_of, tuple(zip(starts, sizes, strict=False)))


def _groups(
    propagation: Propagation,
    tensor_units: Mapping[tuple[str, int], IntArray],
    numbering: _Numbering,
    component_paths: Mapping[str, str],
) -> tuple[Group, ...]:
    group_of = np.repeat(np.arange(len(numbering.groups)), [size for _, size in numbering.groups])
    slices: list[list[Slices]] = [[] for _ in numbering.groups]
    for place, units in tensor_units.items():
        for number in np.unique(group_of[units[units != FIXED]]).tolist():
            first, size = numbering.groups[number]
            inside = np.flatnonzero((units >= first) & (units < first + size))
            by_unit = inside[np.argsort(units[inside], kind="stable")].reshape(size, -1)
            side = Side.INPUT if place in propagation.read else Side.OUTPUT if place in propagation.made else Side.BOTH
            slices[number].append(Slices(tensor=place[0], axis=place[1], indices=by_unit, side=side))
    names = _unique([_name(found[0].tensor) for found in slices])
    return tuple(
        Group(
            name=name,
            size=size,
            components=tuple(dict.fromkeys(_components(found, component_paths))),
            slices=tuple(found),
            first_unit=first,
        )
        for name, found, (first, size) in zip(names, slices, numbering.groups, strict=True)
    )


def _name(tensor: str) -> str:
    """Name a group after the module whose weight makes its activations, or after that parameter."""
    module, _, leaf = tensor.replace(".parametrizations.weight.", ".parametrised ").rpartition(".")
    return module if module and leaf.split(" ")[0] in WEIGHT_NAMES else tensor


def _unique(names: list[str]) -> list[str]:
    """Number the groups that one parameter makes: `fc/1`, `fc/2`."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(f"{name}/{seen[name]}" if names.count(name) > 1 else name)
    return unique


def _components(slices: Iterable[Slices], paths: Mapping[str, str]) -> Iterable[str]:
    for each in slices:
        found = component_of(each.tensor, paths)
        if found is not None:
            yield found


def _protected(
    propagation: Propagation,
    shapes: Mapping[str, tuple[int, ...]],
    tensor_units: Mapping[tuple[str, int], IntArray],
    reasons: Mapping[int, str],
) -> Iterable[Protected]:
    labels = propagation.labels
    for tensor, shape in shapes.items():
        for axis, length in enumerate(shape):
            place = (tensor, axis)
            if place not in tensor_units:
                yield Protected(tensor=tensor, axis=axis, count=length, reason=UNUSED)
                continue
            held = labels.representative[slice(*labels.tensors[place])][tensor_units[place] == FIXED]
            counts: dict[str, int] = {}
            for label in held.tolist():
                counts[reasons[label]] = counts.get(reasons[label], 0) + 1
            for reason, count in counts.items():
                yield Protected(tensor=tensor, axis=axis, count=count, reason=reason)


def _measured_macs(node: Node) -> int:
    """Count an operation that has no rule, on shapes alone; nothing that it touches can shrink."""
    if node.op != "call_function" or rule_of(node.target) is not None:
        return 0
    from torch.fx.node import map_arg
    from torch.utils.flop_counter import FlopCounterMode

    def shape_only(source: Node) -> Any:
        value = source.meta.get("val")
        if isinstance(value, torch.Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return value

    operation: Any = node.target
    try:
        with FlopCounterMode(display=False) as counter:
            operation(*map_arg(node.args, shape_only), **map_arg(node.kwargs, shape_only))
    except (RuntimeError, TypeError, NotImplementedError, ValueError):
        return 0  # no shape without data: nothing that the counter of torch knows
    return int(counter.get_total_flops()) // 2
