"""Sizes that an exported graph states as numbers: what they are in a smaller network, and for another batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_softprune.graph import RECURRENT, keeps_whole_groups, kept_indices, operation_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.fx import Node

    from optuna_softprune.graph import Kept, Units

    _Axes = Mapping[int, Units]
    _Maker = Callable[[Node, _Axes, bool], "dict[int, Stated]"]


class Size(NamedTuple):
    """A number that an operation states, and what it follows.

    Attributes:
        stated: The number in the graph.
        units: Units whose kept ones it counts; None: of none.
        of_axis: (axis, parts): it is the length of this axis of the first operand, divided by `parts`; None: it is not.
        of_batch: Whether it is a length of the axis that holds the examples.
    """

    stated: Any
    units: Units | None = None
    of_axis: tuple[int, int] | None = None
    of_batch: bool = False


# What an argument states: one size, or a list of them.
Stated = Size | list[Size]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one forward pass.

    Attributes:
        count: Units of an axis -> how many of its indices stay.
        batch: Length of axis 0 of the first input.
        example_batch: The same of the example inputs.
    """

    count: Callable[[Units], int]
    batch: int
    example_batch: int

    def argument(self, stated: Stated, operand: Any) -> Any:
        """Return an argument that states sizes; `operand` is the first one of the operation."""
        if isinstance(stated, list):
            return [self._of(size, operand) for size in stated]
        return self._of(stated, operand)

    def _of(self, size: Size, operand: Any) -> Any:
        if size.units is not None:
            return self._length(size.units, of_batch=size.of_batch)
        if size.of_axis is not None:
            axis, parts = size.of_axis
            return operand.shape[axis] // parts
        return self._leading(size.stated) if size.of_batch else size.stated

    def _length(self, units: Units, *, of_batch: bool) -> int:
        """Return the length of an axis in the smaller network, which may hold the units of each example in turn."""
        length = self.count(units)
        each, rest = divmod(len(units), self.example_batch)
        if of_batch and not rest and (units.reshape(-1, each) == units[:each]).all():
            return length // self.example_batch * self.batch
        return length

    def _leading(self, size: int) -> int:
        """Return what a size along axis 0, a multiple of the example's batch, is for this batch."""
        multiple, rest = divmod(size, self.example_batch)
        return size if rest or size < 0 else multiple * self.batch


def counted(kept: Kept) -> Callable[[Units], int]:
    """Return what counts the indices of an axis that stay; `kept` (units,) says of each unit whether it does."""
    return lambda units: int(kept_indices(units, kept).sum())


# What makes a tensor as long as it is told -> position of the shape.
SPREADING = {"expand": 1, "broadcast_to": 1, "zeros": 0, "ones": 0, "full": 0}


def stated_by(node: Node, units: Mapping[Node, Sequence[tuple[int, Units]]], *, batched: bool) -> dict[int, Stated]:
    """Return position -> what it states, of the arguments of `node` that follow the sizes of a network or a batch.

    Args:
        node: The operation.
        units: Node -> (axis, units) of its axes that can shrink.
        batched: Whether axis 0 follows the batch: the operation depends on the inputs.
    """
    name = operation_name(node)
    if name in _CUTS:
        return _CUTS[name](node, dict(units.get(node.all_input_nodes[0], ())))
    make = _MAKERS.get(name)
    return {} if make is None else make(node, dict(units.get(node, ())), batched)


def follows_batch(node: Node) -> bool:
    """Whether an operation makes a tensor as long as the batch, whatever it is made of."""
    position = SPREADING.get(operation_name(node))
    stated = None if position is None else node.args[position]
    return isinstance(stated, (list, tuple)) and bool(stated) and bool(stated[0] != -1)


def _shape(position: int, first_axis: Callable[[Node], int] = lambda node: 0) -> _Maker:
    """Make the rule of an argument that states lengths of the output, from `first_axis` on."""

    def make(node: Node, axes: _Axes, batched: bool) -> dict[int, Stated]:
        stated = node.args[position]
        if not isinstance(stated, (list, tuple)):
            return {}
        start = first_axis(node)
        batch = int(any(operation_name(user) in RECURRENT for user in node.users))  # of a state the second axis

        def length(axis: int, size: Any) -> Size:
            return Size(size) if size == -1 else Size(size, axes.get(axis), of_batch=axis == batch and batched)

        return {position: [length(start + i, size) for i, size in enumerate(stated)]}

    return make


def _of_first(node: Node) -> tuple[int, ...]:
    """Return the shape of the first operand in the dense network."""
    shape: Any = node.args[0]
    return tuple(shape.meta["val"].shape)


def _unflattened(node: Node) -> int:
    axis: Any = node.args[1]
    return int(axis % len(_of_first(node)))


def _normalised(node: Node) -> int:
    shape: Any = node.args[1]
    return len(_of_first(node)) - len(shape)


def _convolution(node: Node, axes: _Axes, batched: bool) -> dict[int, Stated]:
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    x, out, weight = _of_first(node), node.meta["val"].shape, node.args[1].meta["val"].shape  # type: ignore[union-attr]
    channel = len(out) - len(weight) + 1
    return _group_count(6, groups, x[channel] // groups, out[channel] // groups, channel - len(out))


def _group_norm(node: Node, axes: _Axes, batched: bool) -> dict[int, Stated]:
    groups: Any = node.args[1]
    channels = _of_first(node)[1]
    return _group_count(1, groups, channels // groups, channels // groups, 1 - len(_of_first(node)))


def _group_count(position: int, groups: int, width_in: int, width_out: int, channel: int) -> dict[int, Stated]:
    if groups == 1 or not keeps_whole_groups(groups, width_in, width_out):
        return {}
    return {position: Size(groups, of_axis=(channel, width_in))}


def _split(node: Node, axes: _Axes) -> dict[int, Stated]:
    """Follow pieces of an axis of the operand, each as long as what is kept of it."""
    dim: Any = node.args[2] if len(node.args) > 2 else 0
    lengths = [out.shape[dim] for out in node.meta["val"]]
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    units = axes.get(dim % len(_of_first(node)))
    if units is None and len(set(lengths)) > 1:
        return {}  # unequal pieces keep their length

    sizes = [
        Size(length, of_axis=(dim, len(lengths))) if units is None else Size(length, units[end - length : end])
        for length, end in zip(lengths, ends, strict=True)
    ]
    return {1: sizes if isinstance(node.args[1], (list, tuple)) else sizes[0]}


def _slice(node: Node, axes: _Axes) -> dict[int, Stated]:
    """Follow the bounds of a slice of an axis of the operand: what is kept before them."""
    stated: Any = [*node.args, *[0, 0, None, None, 1][len(node.args) :]]
    axis, start, end, step = stated[1:]
    length = _of_first(node)[axis]
    units = axes.get(axis % len(_of_first(node)))
    first, stop, _ = slice(start, end).indices(length)
    if units is None or step != 1 or stop < first:
        return {}
    return {2: Size(first, units[:first]), 3: Size(stop, units[:stop])}


_CUTS: dict[str, Callable[[Node, _Axes], dict[int, Stated]]] = {
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
}
_MAKERS: dict[str, _Maker] = {
    "view": _shape(1),
    "_unsafe_view": _shape(1),
    "reshape": _shape(1),
    "expand": _shape(1),
    "broadcast_to": _shape(1),
    "zeros": _shape(0),
    "ones": _shape(0),
    "full": _shape(0),
    "new_zeros": _shape(1),
    "new_ones": _shape(1),
    "new_full": _shape(1),
    "unflatten": _shape(2, _unflattened),
    "layer_norm": _shape(1, _normalised),
    "rms_norm": _shape(1, _normalised),
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "conv_transpose3d": _convolution,
    "group_norm": _group_norm,
}
