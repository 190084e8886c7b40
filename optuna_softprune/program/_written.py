"""The graph of a traced part written out at a candidate's sizes, as plain values that are JSON.

| key | value |
| --- | --- |
| `inputs` | of each flat input `{"shape": sizes}` if its tensor is read, `{"is": value}` of a setting, or `{}` |
| `in`, `out` | how inputs and outputs are flattened, as torch writes it |
| `examples` | `[input, axis, indices of one example]`: where the number of examples is read; or null |
| `tensors` | names of parameters and buffers, beginning inside of the part |
| `constants` | tensors that the forward pass has closed over: `dtype`, `shape` and `data` in base64 |
| `steps` | `[operation, positional arguments, keyword arguments]`, in order |
| `outputs` | the flat outputs, as arguments |

Values are numbered: inputs, tensors, constants, then what each step makes. An argument is a number, a text, a list, or

| mapping | what it stands for |
| --- | --- |
| `{"value": n}` | the n-th value |
| `{"each": a, "plus": b}` | a times the number of examples, plus b |
| `{"own": "dtype"}`, `{"own": "device"}` | those of the part's weights, and of its inputs |
| `{"torch": name}` | a dtype, layout or memory format |
| `{"float": text}` | infinity or NaN |
"""

from __future__ import annotations

import base64
import math
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from optuna_softprune.graph import NotTraceableError, operation_name
from optuna_softprune.program._operations import GETITEM, is_plain
from optuna_softprune.program._sizes import Size, stated_by

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna_softprune.graph import Network, TracedPart, Units

Record = dict[str, Any]


def written(network: Network, part: TracedPart, count: Callable[[Units], int]) -> Record:
    """Return the graph of a part at the sizes of a candidate.

    Args:
        network: The groups.
        part: The part.
        count: Units of an axis -> how many of its indices stay.

    Raises:
        NotTraceableError: If its calls have other sizes, or examples and units cannot be told apart.
    """
    records = [_Writer(network, part, nodes, count).record() for nodes in part.calls]
    if any(record != records[0] for record in records):
        raise NotTraceableError(f"the calls of `{part.path}` have other sizes")
    return records[0]


class _Writer:
    """Writes one call of a part."""

    def __init__(
        self, network: Network, part: TracedPart, nodes: Mapping[Node, Node], count: Callable[[Units], int]
    ) -> None:
        self._units, self._part, self._nodes, self._count = network.nodes, part, nodes, count
        self._number: dict[Node, int] = {}

    def record(self) -> Record:
        """Return all of it."""
        exported, examples = self._part.exported, self._part.examples
        placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
        tensors = [name for name in exported.tensors if placeholders[name].users]
        constants = [name for name in exported.constants if placeholders[name].users]
        for name in (*exported.inputs, *tensors, *constants):
            self._number[placeholders[name]] = len(self._number)
        steps = []
        returned: Any = ()
        for node in exported.graph.nodes:
            if node.op == "output":
                returned = node.args[0]
            elif node in self._nodes and node.op != "placeholder":
                steps.append(self._step(node))
                self._number[node] = len(self._number)
        return {
            "inputs": [self._input(placeholders[name]) for name in exported.inputs],
            "in": torch.utils._pytree.treespec_dumps(self._part.in_spec),
            "out": torch.utils._pytree.treespec_dumps(self._part.out_spec),
            "examples": None if examples is None else [examples.number, examples.axis, examples.each],
            "tensors": [exported.tensors[name] for name in tensors],
            "constants": [_constant(exported.constants[name], exported.dtype) for name in constants],
            "steps": steps,
            # What nobody in the network reads is not computed.
            "outputs": [
                None if isinstance(each, Node) and each not in self._number else self._argument(each, each)
                for each in returned
            ],
        }

    def _input(self, node: Node) -> Record:
        value = node.meta.get("val")
        if value is None or type(value) in (bool, str):
            return {"is": value}
        if not isinstance(value, Tensor) or node not in self._nodes:
            return {}
        units = dict(self._units.get(self._nodes[node], ()))
        longer = self._longer(node)
        shape = tuple(value.shape) if longer is None else tuple(longer.meta["val"].shape)
        sizes = [Size(length, units.get(axis)) for axis, length in enumerate(value.shape)]
        return {"shape": [self._size(size, more) for size, more in zip(sizes, shape, strict=True)]}

    def _longer(self, node: Node) -> Node | None:
        return self._part.longer.get(node)

    def _step(self, node: Node) -> list[Any]:
        if node.target is operator.getitem:
            return [GETITEM, [self._argument(each, each) for each in node.args], {}]
        if not is_plain(node.target):
            raise NotTraceableError(f"`{operation_name(node)}` in `{self._part.path}` is of another library")
        dense, longer = self._nodes[node], self._longer(node)
        stated = stated_by(dense, self._units, batched=False)
        others = node.args if longer is None else longer.args
        length = max([len(node.args), *(position + 1 for position in stated)])
        given: Any
        more: Any
        given, more = ([*args, *[None] * (length - len(args))] for args in (node.args, others))
        args = []
        for position, (each, other) in enumerate(zip(given, more, strict=True)):
            found = stated.get(position)
            if isinstance(found, list):
                args.append([self._size(size, b, dense) for size, b in zip(found, other, strict=True)])
            elif found is not None:
                args.append(self._size(found, found.stated if other is None else other, dense))
            else:
                args.append(self._argument(each, other))
        named = node.kwargs if longer is None else longer.kwargs
        kwargs = {name: self._argument(each, named[name]) for name, each in node.kwargs.items()}
        return [str(node.target), args, kwargs]

    def _size(self, size: Size, longer: Any, dense: Node | None = None) -> Any:
        """Return a size in the smaller part; `longer` is what it is for more examples."""
        stated, units = size.stated, size.units
        if size.of_axis is not None and units is None and dense is not None:
            axis, parts = size.of_axis
            operand: Any = dense.args[0]
            axis %= operand.meta["val"].dim()
            units = dict(self._units.get(operand, ())).get(axis)
            length = operand.meta["val"].shape[axis] // parts if units is None else self._count(units) // parts
        else:
            length = stated if units is None else self._count(units)
        if isinstance(longer, int) and isinstance(stated, int) and longer != stated:
            if units is None:
                return self._following(stated, longer)
            examples = self._part.examples
            if examples is None or stated * examples.longer != longer * examples.dense or length % examples.dense:
                raise NotTraceableError(f"`{self._part.path}` mixes examples with what can be removed")
            return {"each": length // examples.dense, "plus": 0}
        return length

    def _following(self, stated: int, longer: int) -> Any:
        """Return a number that follows the number of examples."""
        examples = self._part.examples
        if examples is None:
            raise NotTraceableError(f"`{self._part.path}` does not see how many examples it is given")
        each, rest = divmod(longer - stated, examples.longer - examples.dense)
        if rest:
            raise NotTraceableError(f"`{self._part.path}` has a size that follows the examples in a way of its own")
        return {"each": each, "plus": stated - each * examples.dense}

    def _argument(self, value: Any, longer: Any) -> Any:
        if isinstance(value, Node):
            return {"value": self._number[value]}
        if isinstance(value, (list, tuple)):
            return [self._argument(one, other) for one, other in zip(value, longer, strict=True)]
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            own = value == self._part.exported.dtype
            return {"own": "dtype"} if own else {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"own": "device"}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if type(value) is int and type(longer) is int and value != longer:
            return self._following(value, longer)
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise NotTraceableError(f"`{self._part.path}` has an argument of class {type(value).__name__}")


def _constant(value: Tensor, working: torch.dtype | None) -> Record:
    data = value.detach().cpu().contiguous()
    return {
        "dtype": {"own": "dtype"} if value.dtype == working else {"torch": str(value.dtype).removeprefix("torch.")},
        "stored": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "data": base64.b64encode(data.reshape(-1).view(torch.uint8).numpy().tobytes()).decode(),
    }


def follows_units(network: Network, part: TracedPart) -> bool:
    """Whether something in a part, or that it is given, can shrink."""
    return any(network.nodes.get(node) for nodes in part.calls for node in nodes.values())
