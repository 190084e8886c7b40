"""The forward pass of a traced part: a written graph, run with the weights of the submodule that it belongs to."""

from __future__ import annotations

import base64
import copy
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optuna_softprune.program._operations import operation, torch_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna_softprune.program._written import Record

    # (values, number of examples, own dtype and device) -> an argument.
    Argument = Callable[[Sequence[Any], int, "Own"], Any]

KEYS = frozenset(["inputs", "in", "out", "examples", "tensors", "constants", "steps", "outputs"])


class TracedForward:
    """What runs in place of a submodule's own `forward`: its graph at the sizes of one candidate, in eval mode.

    Args:
        module: The submodule; it keeps its class, its attributes and its parameters.
        record: The graph, as `written` returns it.

    Raises:
        ValueError: If the record is none.
    """

    def __init__(self, module: nn.Module, record: Record) -> None:
        self.module, self.record = module, record
        self._read = _Reader(record).read()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the submodule's own forward pass returns in eval mode."""
        read = self._read
        flat = read.in_spec.flatten_up_to((args, kwargs))
        examples = 1
        if read.examples is not None:
            number, axis, each = read.examples
            given = flat[number]
            examples = given.shape[axis] // each if isinstance(given, Tensor) and given.dim() > axis else 1
        self._expect(flat, examples)
        own = Own(self.module, flat)
        values = [*flat, *(get(self.module) for get in read.tensors)]
        values += [constant.to(own.device, own.dtype if of_own else None) for constant, of_own in read.constants]
        for call, arguments, named, done in read.steps:
            made = call(
                *[each(values, examples, own) for each in arguments],
                **{name: each(values, examples, own) for name, each in named},
            )
            values.append(made)
            for number in done:
                values[number] = None
        return read.out_spec.unflatten([each(values, examples, own) for each in read.outputs])

    def expect_tensors(self) -> None:
        """Raise a ValueError if the submodule has not all parameters and buffers that the graph reads."""
        for name, get in zip(self.record["tensors"], self._read.tensors, strict=True):
            try:
                found = isinstance(get(self.module), Tensor)
            except AttributeError:
                found = False
            if not found:
                raise ValueError(f"Expected {type(self.module).__name__} to have a tensor `{name}`, but it has none.")

    def _expect(self, flat: Sequence[Any], examples: int) -> None:
        """Raise a ValueError for inputs of other sizes than the graph's."""
        for given, expected in zip(flat, self._read.inputs, strict=True):
            if not isinstance(expected, tuple):
                continue
            shape = tuple(each * examples + plus for each, plus in expected)
            if (
                not isinstance(given, Tensor)
                or len(given.shape) != len(shape)
                or any(length != wanted for length, wanted in zip(given.shape, shape, strict=True))
            ):
                got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(
                    f"Expected the input of a traced part ({type(self.module).__name__}) to have shape {shape}, but "
                    f"got {got}: its graph takes any number of examples, of the sizes that the network was pruned "
                    "with. Prune with example inputs of the sizes that are needed."
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedForward:
        duplicate = object.__new__(TracedForward)
        memo[id(self)] = duplicate
        duplicate.module = copy.deepcopy(self.module, memo)
        duplicate.record, duplicate._read = self.record, self._read  # nobody writes to them
        return duplicate

    def __reduce__(self) -> Any:
        return TracedForward, (self.module, self.record)

    def __repr__(self) -> str:
        return f"TracedForward({len(self._read.steps)} operations)"


class Own:
    """The dtype of the weights, or else of the inputs, and the device of the inputs, or else of the weights."""

    def __init__(self, module: nn.Module, flat: Sequence[Any]) -> None:
        self._module, self._inputs = module, [each for each in flat if isinstance(each, Tensor)]

    @property
    def dtype(self) -> torch.dtype:
        tensors = (*self._module.parameters(), *self._inputs)
        return next((each.dtype for each in tensors if each.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        tensors = self._inputs or list(self._module.parameters())
        return next((each.device for each in tensors), torch.device("cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A written graph, ready to run.

    Attributes:
        inputs: Of each flat input (indices of one example, more indices) for each axis; None: it is no tensor.
        in_spec: How inputs are flattened.
        out_spec: How outputs are flattened.
        examples: Where the number of examples is read.
        tensors: Module -> parameter or buffer.
        constants: Tensors, and whether they have the dtype of the weights.
        steps: Operation, arguments, and the values that nobody reads afterwards.
        outputs: The flat outputs.
    """

    inputs: tuple[tuple[tuple[int, int], ...] | None, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    examples: tuple[int, int, int] | None
    tensors: tuple[Callable[[nn.Module], Tensor], ...]
    constants: tuple[tuple[Tensor, bool], ...]
    steps: tuple[tuple[Any, tuple[Argument, ...], tuple[tuple[str, Argument], ...], tuple[int, ...]], ...]
    outputs: tuple[Argument, ...]


class _Reader:
    """Reads a record that anybody may have written."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self._known = 0
        self._read_last: dict[int, int] = {}

    def read(self) -> _Read:
        """Return it, ready to run.

        Raises:
            ValueError: If it is none.
        """
        record = self._record
        if not isinstance(record, dict) or set(record) != KEYS:
            raise ValueError(f"Expected a traced part with the keys {sorted(KEYS)}.")
        try:
            return self._read(record)
        except ValueError as error:
            raise ValueError(f"Expected a traced part to have {error}.") from None
        except Exception as error:
            raise ValueError(f"Expected a traced part that can be read, but {type(error).__name__}: {error}.") from None

    def _read(self, record: Record) -> _Read:
        inputs = tuple(self._input(each) for each in record["inputs"])
        tensors = tuple(operator.attrgetter(_name(each)) for each in record["tensors"])
        constants = tuple(_constant(each) for each in record["constants"])
        self._known = first = len(inputs) + len(tensors) + len(constants)
        steps = []
        for name, args, kwargs in record["steps"]:
            call = operation(name)
            arguments = tuple(self._argument(each) for each in args)
            named = tuple((str(key), self._argument(each)) for key, each in kwargs.items())
            steps.append((call, arguments, named))
            self._known += 1
        outputs = tuple(self._argument(each) for each in record["outputs"])
        done: dict[int, list[int]] = {}
        for value, step in self._read_last.items():
            if value >= first and step < self._known:
                done.setdefault(step - first, []).append(value)
        in_spec, out_spec = (pytree.treespec_loads(record[key]) for key in ("in", "out"))
        examples = record["examples"]
        if examples is not None:
            number, axis, each = (_size(value) for value in examples)
            if number >= len(inputs) or each == 0:
                raise ValueError(f"a place of its examples among its inputs, but got {examples!r}")
            examples = (number, axis, each)
        if in_spec.num_leaves != len(inputs) or out_spec.num_leaves != len(outputs):
            raise ValueError("as many inputs and outputs as it says")
        return _Read(
            inputs=inputs,
            in_spec=in_spec,
            out_spec=out_spec,
            examples=examples,
            tensors=tensors,
            constants=constants,
            steps=tuple((*step, tuple(done.get(i, ()))) for i, step in enumerate(steps)),
            outputs=outputs,
        )

    def _input(self, value: Any) -> tuple[tuple[int, int], ...] | None:
        if "shape" not in value:
            return None
        return tuple(
            (_size(each["each"]), int(each["plus"])) if isinstance(each, dict) else (0, _size(each))
            for each in value["shape"]
        )

    def _argument(self, value: Any) -> Argument:
        if isinstance(value, list):
            parts = [self._argument(each) for each in value]
            return lambda values, examples, own: [each(values, examples, own) for each in parts]
        if not isinstance(value, dict):
            if value is not None and type(value) not in (bool, int, float, str):
                raise ValueError(f"arguments, but got {value!r}")
            return lambda values, examples, own: value
        keys = set(value)
        if keys == {"value"}:
            number = _size(value["value"])
            if number >= self._known:
                raise ValueError(f"values that are made before they are read, but got {number}")
            self._read_last[number] = self._known
            return lambda values, examples, own: values[number]
        if keys == {"each", "plus"}:
            each, plus = int(value["each"]), int(value["plus"])
            return lambda values, examples, own: each * examples + plus
        if keys == {"own"} and value["own"] in ("dtype", "device"):
            get: Any = operator.attrgetter(value["own"])
            return lambda values, examples, own: get(own)
        if keys == {"torch"}:
            found = torch_object(value["torch"])
            return lambda values, examples, own: found
        if keys == {"float"}:
            number_ = float(value["float"])
            return lambda values, examples, own: number_
        raise ValueError(f"arguments, but got {value!r}")


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"sizes, but got {value!r}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not all(value.split(".")) or "__" in value:
        raise ValueError(f"names of parameters and buffers, but got {value!r}")
    return value


def _constant(value: Any) -> tuple[Tensor, bool]:
    dtype, shape = torch_object(value["stored"]), [_size(each) for each in value["shape"]]
    data = bytearray(base64.b64decode(value["data"], validate=True))
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError("constants that fill their shape")
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(shape), value["dtype"] == {"own": "dtype"}


def expect_record(record: Any) -> None:
    """Raise a ValueError for what is no written graph."""
    _Reader(record).read()


def install(module: nn.Module, record: Record) -> None:
    """Let a submodule run a written graph in place of its own forward pass.

    Raises:
        ValueError: If the record is none, or the submodule lacks a tensor that it names.
    """
    forward = TracedForward(module, record)
    forward.expect_tensors()
    module.forward = forward.run  # a method: `torch.export` looks at its code
