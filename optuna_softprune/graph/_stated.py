"""Sizes that modules hold as integers and read in their forward pass: they may be widths that it states."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from optuna_softprune.graph._copy import copy_with, map_tensors
from optuna_softprune.graph._meta import meta_copy, returned, to_meta
from optuna_softprune.graph._operation import operation_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from torch import Tensor
    from torch.fx import Node


# Types of attributes that sizes are held in.
HOLDERS = (int, tuple, list)


class StatedSize(NamedTuple):
    """An integer that a module holds, or one of a tuple or list of them.

    Attributes:
        module: Qualified name of the module.
        name: Name of the attribute.
        position: Position in a tuple or list; None: it is an integer itself.
    """

    module: str
    name: str
    position: int | None


class Held(NamedTuple):
    """How large a size is, and who reads it.

    Attributes:
        length: Its value in the dense network.
        readers: Qualified names of the modules in whose forward passes it is read.
    """

    length: int
    readers: set[str]


class DensePass(NamedTuple):
    """What a forward pass of the dense network showed.

    Attributes:
        stated: The sizes that it reads from the modules' own attributes, in the order of reading; None: the network
            minds being looked at.
        macs: Multiply-accumulates as torch counts them; None: they could not be counted without data.
    """

    stated: dict[StatedSize, Held] | None
    macs: int | None


def dense_pass(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DensePass:
    """Look at one forward pass, without data where the network runs without.

    Args:
        model: The network in eval mode; it is only read.
        args: Positional inputs, on its device and in its precision.
        kwargs: Keyword inputs.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with contextlib.suppress(Exception):  # what needs values
        on_meta = map_tensors((args, dict(kwargs)), to_meta)
        without_values = meta_copy(model).requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            read = _read(without_values, on_meta[0], on_meta[1], returned)
        return DensePass(read, counter.get_total_flops() // 2)
    buffers = {name for name, _ in model.named_buffers()}
    working = copy_with(model, lambda name, tensor: tensor.clone() if name in buffers else tensor)

    def run(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(*args, **kwargs)

    try:
        return DensePass(_read(working, args, kwargs, run), None)
    except Exception:
        return DensePass(None, None)


def _read(
    working: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], run: Callable[..., Any]
) -> dict[StatedSize, Held]:
    """Return the sizes that the modules of a copy read when it runs, their own or those of others."""
    read: dict[StatedSize, Held] = {}
    running = [""]
    paths: dict[int, str] = {}
    for path, module in working.named_modules():
        paths.setdefault(id(module), path)
    spies: dict[type[nn.Module], type[nn.Module]] = {}

    def note(module: nn.Module, name: str, value: Any) -> None:
        for position, size in sizes_in(value):
            held = read.setdefault(StatedSize(paths[id(module)], name, position), Held(size, set()))
            held.readers.add(running[-1])

    @contextlib.contextmanager
    def run_by(module: nn.Module) -> Iterator[None]:
        running.append(paths[id(module)])
        try:
            yield
        finally:
            running.pop()

    for module in working.modules():
        module.__class__ = spies.setdefault(type(module), _spy(type(module), note, run_by))
    run(working, args, kwargs)
    return read


def _spy(kind: type[nn.Module], note: Any, run_by: Any) -> type[nn.Module]:
    """Return a class like `kind` whose objects say which of their own integers are read, and when they are called."""

    def __getattribute__(self: nn.Module, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if type(value) in HOLDERS and name in object.__getattribute__(self, "__dict__"):
            note(self, name, value)
        return value

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with run_by(self):
            return kind.__call__(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__getattribute__": __getattribute__, "__call__": __call__})


def sizes_in(value: Any) -> Iterator[tuple[int | None, int]]:
    """Yield (position, size) of what an attribute of one of the `HOLDERS` holds; position None: it is one itself."""
    if type(value) is int:
        yield None, value
    elif value and all(type(each) is int for each in value):
        yield from enumerate(value)


# Operation -> position of the argument that states lengths of the output.
SHAPES = {"zeros": 0, "ones": 0, "full": 0, "empty": 0} | {
    f"new_{name}": 1 for name in ("zeros", "ones", "full", "empty")
}
SHAPES |= {"view": 1, "reshape": 1, "_unsafe_view": 1, "expand": 1, "unflatten": 2}


def is_stating(node: Node) -> bool:
    """Whether an operation states lengths of what it makes."""
    return operation_name(node) in SHAPES


class Statement(NamedTuple):
    """An operation may have read a size.

    Attributes:
        size: The size.
        labels: Labels of what it counts, shape (repetitions, length).
        certain: Whether the length can hardly have come from somewhere else.
    """

    size: StatedSize
    labels: Tensor
    certain: bool


def statements(
    node: Node, widths: Mapping[int, Tensor], there: Collection[int], own: Mapping[StatedSize, int]
) -> Iterator[Statement]:
    """Yield the sizes that an operation may have read.

    A tuple of sizes is read by an operation that states just these. A single size is taken for one that states an axis
    if the forward pass in which the operation is reads it; where several axes have one length, axes and sizes belong
    together in their order.

    Args:
        node: The operation.
        widths: Axis -> labels (length,) along it, of the axes of its output that can shrink.
        there: Axes that an operand has too: their length may have been read from its shape.
        own: The sizes that the forward pass in which the operation is reads, in the order of reading.
    """
    lengths = _stated_lengths(node)
    whole = _held_tuple(own, list(lengths.values()))
    if whole is not None:
        for position, (axis, length) in enumerate(lengths.items()):
            if axis in widths and len(widths[axis]) == length:
                yield Statement(whole[position], widths[axis][None], certain=True)
        return
    single = {size: length for size, length in own.items() if size.position is None and length > 1}
    for length in dict.fromkeys(length for axis, length in lengths.items() if axis in widths and length > 0):
        alike = [axis for axis, each in lengths.items() if each == length]
        axes = [axis for axis in alike if axis in widths]
        found = [size for size, value in single.items() if value == length or _repeats(widths[axes[0]], value)]
        # More sizes than axes that can shrink: some of them state others.
        places = axes if len(found) <= len(axes) else alike
        for size, axis in zip(found, places, strict=False):
            if axis in widths:
                yield Statement(size, widths[axis].reshape(-1, single[size]), certain=axis not in there)


def _held_tuple(own: Mapping[StatedSize, int], lengths: list[int]) -> list[StatedSize] | None:
    """Return a tuple of just these lengths among the sizes that a forward pass reads."""
    found: dict[tuple[str, str], list[StatedSize]] = {}
    for size in own:
        if size.position is not None:
            found.setdefault((size.module, size.name), []).append(size)
    return next((held for held in found.values() if [own[size] for size in held] == lengths), None)


def _stated_lengths(node: Node) -> dict[int, int]:
    """Return axis -> length of the axes of the output whose length an operation states; -1: it is left open."""
    name = operation_name(node)
    if name not in SHAPES or not isinstance(node.args[SHAPES[name]], (list, tuple)):
        return {}
    stated: Any = node.args[SHAPES[name]]
    start: Any = node.args[1] if name == "unflatten" else 0
    rank = node.meta["val"].dim() - len(stated) + 1
    return {start % rank + i: int(each) for i, each in enumerate(stated)}


def _repeats(labels: Tensor, length: int) -> bool:
    """Whether labels repeat after a length, as those of one example do in a batch."""
    return len(labels) % length == 0 and bool((labels.reshape(-1, length) == labels[:length]).all())


def stating_pieces(own: Mapping[StatedSize, int], lengths: Sequence[int]) -> list[tuple[StatedSize, int, int]] | None:
    """Return (size, start, length) of the pieces that sizes state, or None if they do not state all.

    One piece may be what is left of the whole axis: of the length that a size states, or of the tensor.
    """
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    whole = _held_tuple(own, list(lengths))
    if whole is not None:
        return list(zip(whole, starts, lengths, strict=True))
    single = [(size, length) for size, length in own.items() if size.position is None and length > 1]
    found: list[tuple[StatedSize, int, int]] = []
    unused, rest = [*single], 0
    for start, length in zip(starts, lengths, strict=True):
        # One size may state several pieces, but not while there is another one.
        place = next((each for each in (*unused, *single) if each[1] == length), None)
        if place is None:
            rest += 1
        else:
            unused = [each for each in unused if each != place]
            found.append((place[0], start, length))
    total = next((each for each, held in unused if held == sum(lengths)), None)
    if rest and total is not None:
        found.append((total, 0, sum(lengths)))
    return found if found and rest <= 1 else None
