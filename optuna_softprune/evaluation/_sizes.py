"""Sizes that an exported graph states as numbers: what they are in a smaller network, and for another batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna_softprune.graph import RECURRENT, Kept, keeps_whole_groups, kept_indices, operation_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import Node

    from optuna_softprune.graph import Units

    _Maker = Callable[[Node, Mapping[int, Units], bool], dict[int, "Resize"]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What operations of one forward pass depend on besides values.

    Attributes:
        kept: Shape (units,): whether each unit stays.
        batch: Length of axis 0 of the first input.
        example_batch: The same of the example inputs.
        may_write: Whether an operation may write its result into an operand that nobody reads afterwards.
    """

    kept: Kept
    batch: int
    example_batch: int
    may_write: bool

    def length(self, units: Units, *, of_batch: bool = False) -> int:
        """Return the length of an axis in the smaller network, which may hold the units of each example in turn."""
        length = int(kept_indices(units, self.kept).sum())
        each, rest = divmod(len(units), self.example_batch)
        if of_batch and not rest and (units.reshape(-1, each) == units[:each]).all():
            return length // self.example_batch * self.batch
        return length

    def leading(self, size: int) -> int:
        """Return what a size along axis 0, a multiple of the example's batch, is for this batch."""
        multiple, rest = divmod(size, self.example_batch)
        return size if rest or size < 0 else multiple * self.batch


# What makes a tensor as long as it is told -> position of the shape.
SPREADING = {"expand": 1, "broadcast_to": 1, "zeros": 0, "ones": 0, "full": 0}
# (sizes, arguments with the values at hand) -> the new argument.
Resize = Callable[[Sizes, list[Any]], Any]


def resizes(node: Node, units: Mapping[Node, Sequence[tuple[int, Units]]], *, batched: bool) -> dict[int, Resize]:
    """Return position -> new value of the arguments of `node` that follow the sizes of a network or a batch.

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

    def make(node: Node, axes: Mapping[int, Units], batched: bool) -> dict[int, Resize]:
        stated = node.args[position]
        if not isinstance(stated, (list, tuple)):
            return {}
        start = first_axis(node)
        batch = int(any(operation_name(user) in RECURRENT for user in node.users))  # of a state the second axis

        def length(sizes: Sizes, axis: int, size: Any) -> Any:
            if size == -1:
                return size
            if axis in axes:
                return sizes.length(axes[axis], of_batch=axis == batch and batched)
            return sizes.leading(size) if axis == batch and batched else size

        return {position: lambda sizes, args: [length(sizes, start + i, size) for i, size in enumerate(stated)]}

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


def _convolution(node: Node, axes: Mapping[int, Units], batched: bool) -> dict[int, Resize]:
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    x, out, weight = _of_first(node), node.meta["val"].shape, node.args[1].meta["val"].shape  # type: ignore[union-attr]
    channel = len(out) - len(weight) + 1
    return _group_count(6, groups, x[channel] // groups, out[channel] // groups, channel - len(out))


def _group_norm(node: Node, axes: Mapping[int, Units], batched: bool) -> dict[int, Resize]:
    groups: Any = node.args[1]
    channels = _of_first(node)[1]
    return _group_count(1, groups, channels // groups, channels // groups, 1 - len(_of_first(node)))


def _group_count(position: int, groups: int, width_in: int, width_out: int, channel: int) -> dict[int, Resize]:
    if groups == 1 or not keeps_whole_groups(groups, width_in, width_out):
        return {}
    return {position: lambda sizes, args: args[0].shape[channel] // width_in}


def _split(node: Node, axes: Mapping[int, Units]) -> dict[int, Resize]:
    """Follow pieces of an axis of the operand, each as long as what is kept of it."""
    dim: Any = node.args[2] if len(node.args) > 2 else 0
    lengths = [out.shape[dim] for out in node.meta["val"]]
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    units = axes.get(dim % len(_of_first(node)))
    if units is None and len(set(lengths)) > 1:
        return {}  # unequal pieces keep their length

    def pieces(sizes: Sizes, args: list[Any]) -> Any:
        if units is None:
            kept = [args[0].shape[dim] // len(lengths)] * len(lengths)
        else:
            kept = [sizes.length(units[end - length : end]) for length, end in zip(lengths, ends, strict=True)]
        return kept if isinstance(node.args[1], (list, tuple)) else kept[0]

    return {1: pieces}


def _slice(node: Node, axes: Mapping[int, Units]) -> dict[int, Resize]:
    """Follow the bounds of a slice of an axis of the operand: what is kept before them."""
    stated: Any = [*node.args, *[0, 0, None, None, 1][len(node.args) :]]
    axis, start, end, step = stated[1:]
    length = _of_first(node)[axis]
    units = axes.get(axis % len(_of_first(node)))
    first, stop, _ = slice(start, end).indices(length)
    if units is None or step != 1 or stop < first:
        return {}
    return {
        2: lambda sizes, args: sizes.length(units[:first]),
        3: lambda sizes, args: sizes.length(units[:stop]),
    }


_CUTS: dict[str, Callable[[Node, Mapping[int, Units]], dict[int, Resize]]] = {
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
