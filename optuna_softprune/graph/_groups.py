"""From classes of labels to groups of units, and what each unit touches."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import Node

    from optuna_softprune.graph._export import ExportedGraph
    from optuna_softprune.graph._traced import TracedPart

Units = NDArray[np.int64]
Kept = NDArray[np.bool_]
_Key = TypeVar("_Key")
FIXED = -1
UNUSED = "not used in the forward pass in eval mode"


class Side(enum.Enum):
    """What the indices of an axis are to the data that flow through a group."""

    OUTPUT = "makes it"
    INPUT = "reads it"
    BOTH = "scales, shifts or stores it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """The indices of one axis of one parameter or buffer that belong to a group.

    Attributes:
        tensor: Qualified name of the parameter or buffer.
        axis: The axis that is cut.
        indices: Shape (size, multiplicity), int64: row u holds the indices that go with unit u.
        side: Whether these indices make the group's activations, read them, or go along.
    """

    tensor: str
    axis: int
    indices: NDArray[np.int64] = field(repr=False)
    side: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All slices that must be removed together, unit by unit.

    Attributes:
        name: Stable and readable; made of the qualified name of the parameter that makes its activations.
        size: Number of units, before any is removed.
        components: Names of the components that its slices lie in; more than one: a coupling group of them.
        slices: What is cut, in execution order.
        first_unit: Number of its unit 0 among all units of the network.
        least: Units that it must keep for the forward pass to be the same.
        multiple: Of what number it must keep a multiple, or all units, for the forward pass to run.
        why_bounded: Why these; empty if it may keep any number of units.
    """

    name: str
    size: int
    components: tuple[str, ...]
    slices: tuple[Slices, ...] = field(repr=False)
    first_unit: int = field(repr=False)
    least: int = field(default=1, repr=False)
    multiple: int = field(default=1, repr=False)
    why_bounded: str = field(default="", repr=False)


class Bound(NamedTuple):
    """How many units a group may keep: at least so many, all or a multiple, and why."""

    least: int
    multiple: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """Indices of one axis of a parameter or buffer that are never removed.

    Attributes:
        tensor: Qualified name of the parameter or buffer.
        axis: The axis.
        count: How many of its indices.
        reason: Why.
    """

    tensor: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What removing units means for a network: its groups, and the units on every axis of everything.

    An axis is described by `Units`: an int64 vector as long as the axis, of unit numbers or `FIXED`. Unit numbers run
    through all groups. Removing units keeps, on every axis, the indices whose unit is kept or `FIXED`.

    Attributes:
        exported: The graph.
        groups: The groups in execution order.
        protected: What cannot be removed, with reasons, in the order of the parameters.
        shapes: Qualified name of a parameter or buffer -> its shape.
        tensors: (qualified name, axis) -> units of the axes that can shrink.
        attributes: (module, attribute, index in a tuple or None) -> units whose number kept is its value.
        nodes: Graph node -> (axis, units) of its axes that can shrink.
        macs: Graph node -> products of which its multiply-accumulates are the sum: the (node, axis) of each factor.
        constant_macs: Graph node -> multiply-accumulates, of all other operations that have some.
        traced: Path -> a submodule that is its own graph in the smaller network.
        ambiguous: Qualified names of integers of modules that are as large as a width, but may mean something else.
    """

    exported: ExportedGraph
    groups: tuple[Group, ...]
    protected: tuple[Protected, ...]
    shapes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[tuple[str, int], Units]
    attributes: Mapping[tuple[str, str, int | None], Units]
    nodes: Mapping[Node, tuple[tuple[int, Units], ...]]
    macs: Mapping[Node, Sequence[Sequence[tuple[Node, int]]]]
    constant_macs: Mapping[Node, int]
    traced: Mapping[str, TracedPart] = field(default_factory=dict)
    ambiguous: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """Number of units of all groups together."""
        return sum(group.size for group in self.groups)

    def without(self, reasons: Mapping[str, str]) -> Network:
        """Return the network with some groups protected: group name -> reason."""
        renumber = np.full(self.units + 1, FIXED)
        kept: list[Group] = []
        new_protected = list(self.protected)
        start = 0
        for group in self.groups:
            if group.name in reasons:
                for each in group.slices:
                    record = Protected(
                        tensor=each.tensor,
                        axis=each.axis,
                        count=each.indices.size,
                        reason=reasons[group.name],
                    )
                    new_protected.append(record)
                continue
            renumber[group.first_unit : group.first_unit + group.size] = np.arange(start, start + group.size)
            kept.append(replace(group, first_unit=start))
            start += group.size
        order = {name: i for i, name in enumerate(self.shapes)}
        new_protected.sort(key=lambda each: (order[each.tensor], each.axis))
        return replace(self._renumbered(renumber, kept), protected=tuple(new_protected))

    def bounded(self, bounds: Mapping[str, Bound]) -> Network:
        """Return the network in which some groups, by name, may not keep any number of units."""
        groups = [
            replace(group, least=bound.least, multiple=bound.multiple, why_bounded=bound.why)
            if (bound := bounds.get(group.name))
            else group
            for group in self.groups
        ]
        return replace(self, groups=tuple(groups))

    def joined(self, sets: Sequence[Sequence[str]]) -> Network:
        """Return the network in which groups of one size that must keep equally many units are one group.

        Unit u of the one group is unit u of each. It has the name of the first.
        """
        if not sets:
            return self
        found = {group.name: group for group in self.groups}
        follows = {name: names[0] for names in sets for name in names[1:]}
        renumber = np.full(self.units + 1, FIXED)
        kept: list[Group] = []
        start = 0
        for group in self.groups:
            if group.name not in follows:
                renumber[group.first_unit : group.first_unit + group.size] = np.arange(start, start + group.size)
                kept.append(replace(group, first_unit=start))
                start += group.size
        place = {group.name: i for i, group in enumerate(kept)}
        for name, first in follows.items():
            other, one = found[name], kept[place[first]]
            renumber[other.first_unit : other.first_unit + other.size] = one.first_unit + np.arange(one.size)
            kept[place[first]] = replace(
                one,
                components=tuple(dict.fromkeys([*one.components, *other.components])),
                slices=_united([*one.slices, *other.slices]),
            )
        return self._renumbered(renumber, kept)

    def _renumbered(self, renumber: Units, groups: Sequence[Group]) -> Network:
        """Return the network with other groups; `renumber` gives the new number of each unit, and `FIXED` at -1."""
        return replace(
            self,
            groups=tuple(groups),
            tensors=that_shrink({key: renumber[units] for key, units in self.tensors.items()}),
            attributes=that_shrink({key: renumber[units] for key, units in self.attributes.items()}),
            nodes={
                node: tuple((axis, renumber[units]) for axis, units in axes if (renumber[units] != FIXED).any())
                for node, axes in self.nodes.items()
            },
        )


def kept_indices(units: Units, kept: Kept) -> Kept:
    """Return for each index of an axis whether it stays; `kept` has a flag for each unit of the network."""
    stays: Kept = kept[units] | (units == FIXED)
    return stays


def _united(slices: Sequence[Slices]) -> tuple[Slices, ...]:
    """Return slices with one for each axis of a tensor."""
    united: dict[tuple[str, int], Slices] = {}
    for each in slices:
        key = (each.tensor, each.axis)
        if key in united:
            indices = np.concatenate([united[key].indices, each.indices], axis=1)
            united[key] = replace(each, indices=np.sort(indices, axis=1))
        else:
            united[key] = each
    return tuple(united.values())


def that_shrink(axes: Mapping[_Key, Units]) -> dict[_Key, Units]:
    """Leave out the axes of which every index is fixed."""
    return {key: units for key, units in axes.items() if (units != FIXED).any()}
