"""Read the written graph of a traced part, which anybody may have written."""

from __future__ import annotations

import base64
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

    # (values, number of examples, what has the dtype and the device of the part) -> an argument.
    Input = list[tuple[int, int]] | tuple[bool | str | None] | None
    Argument = Callable[[Sequence[Any], int, Any], Any]

KEYS = frozenset(["inputs", "in", "out", "examples", "tensors", "constants", "steps", "outputs"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A written graph, ready to run.

    Attributes:
        inputs: What each flat input must be: (indices of one example, more indices) for each axis of a tensor in a
            list, a setting in a tuple, or None.
        in_spec: How inputs are flattened.
        out_spec: How outputs are flattened.
        examples: Where the number of examples is read.
        tensors: Module -> parameter or buffer.
        constants: Tensors, and whether they have the dtype of the weights.
        steps: Operation, arguments, and the values that nobody reads afterwards.
        outputs: The flat outputs.
    """

    inputs: tuple[Input, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    examples: tuple[int, int, int] | None
    tensors: tuple[Callable[[nn.Module], Tensor], ...]
    constants: tuple[tuple[Tensor, bool], ...]
    steps: tuple[tuple[Any, tuple[Argument, ...], tuple[tuple[str, Argument], ...], tuple[int, ...]], ...]
    outputs: tuple[Argument, ...]


def read(record: Any) -> Graph:
    """Return a written graph, ready to run.

    Raises:
        ValueError: If it is none.
    """
    return _Reader(record).read()


class _Reader:
    """Reads a record that anybody may have written."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self._known = 0
        self._read_last: dict[int, int] = {}

    def read(self) -> Graph:
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

    def _read(self, record: Record) -> Graph:
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
        return Graph(
            inputs=inputs,
            in_spec=in_spec,
            out_spec=out_spec,
            examples=examples,
            tensors=tensors,
            constants=constants,
            steps=tuple((*step, tuple(done.get(i, ()))) for i, step in enumerate(steps)),
            outputs=outputs,
        )

    def _input(self, value: Any) -> Input:
        if value == {}:
            return None
        if set(value) == {"is"}:
            if value["is"] is not None and type(value["is"]) not in (bool, str):
                raise ValueError(f"settings as inputs, but got {value['is']!r}")
            return (value["is"],)
        return list(
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
