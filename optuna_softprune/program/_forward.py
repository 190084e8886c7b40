"""The forward pass of a traced part: a written graph, run with the weights of the submodule that it belongs to."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from optuna_softprune.program._reading import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_softprune.program._written import Record


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
        self._graph = read(record)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the submodule's own forward pass returns in eval mode."""
        graph = self._graph
        flat = graph.in_spec.flatten_up_to((args, kwargs))
        examples = 1
        if graph.examples is not None:
            number, axis, each = graph.examples
            given = flat[number]
            examples = given.shape[axis] // each if isinstance(given, Tensor) and given.dim() > axis else 1
        self._expect(flat, examples)
        own = Own(self.module, flat)
        values = [*flat, *(get(self.module) for get in graph.tensors)]
        values += [constant.to(own.device, own.dtype if of_own else None) for constant, of_own in graph.constants]
        for call, arguments, named, done in graph.steps:
            made = call(
                *[each(values, examples, own) for each in arguments],
                **{name: each(values, examples, own) for name, each in named},
            )
            values.append(made)
            for number in done:
                values[number] = None
        return graph.out_spec.unflatten([each(values, examples, own) for each in graph.outputs])

    def expect_tensors(self) -> None:
        """Raise a ValueError if the submodule has not all parameters and buffers that the graph reads."""
        for name, get in zip(self.record["tensors"], self._graph.tensors, strict=True):
            try:
                found = isinstance(get(self.module), Tensor)
            except AttributeError:
                found = False
            if not found:
                raise ValueError(f"Expected {type(self.module).__name__} to have a tensor `{name}`, but it has none.")

    def _expect(self, flat: Sequence[Any], examples: int) -> None:
        """Raise a ValueError for inputs of other sizes than the graph's, or other settings."""
        kind = type(self.module).__name__
        for given, expected in zip(flat, self._graph.inputs, strict=True):
            if isinstance(expected, tuple) and given is not expected[0] and given != expected[0]:
                raise ValueError(
                    f"Expected an input of a traced part ({kind}) to be {expected[0]!r} as in the example, but got "
                    f"{given!r}: its graph has taken one of two ways. Prune with an example that goes the other."
                )
            if not isinstance(expected, list):
                continue
            shape = tuple(each * examples + plus for each, plus in expected)
            if (
                not isinstance(given, Tensor)
                or len(given.shape) != len(shape)
                or any(length != wanted for length, wanted in zip(given.shape, shape, strict=True))
            ):
                got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(
                    f"Expected the input of a traced part ({kind}) to have shape {shape}, but "
                    f"got {got}: its graph takes any number of examples, of the sizes that the network was pruned "
                    "with. Prune with example inputs of the sizes that are needed."
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedForward:
        duplicate = object.__new__(TracedForward)
        memo[id(self)] = duplicate
        duplicate.module = copy.deepcopy(self.module, memo)
        duplicate.record, duplicate._graph = self.record, self._graph  # nobody writes to them
        return duplicate

    def __reduce__(self) -> Any:
        return TracedForward, (self.module, self.record)

    def __repr__(self) -> str:
        return f"TracedForward({len(self._graph.steps)} operations)"


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


def install(module: nn.Module, record: Record) -> None:
    """Let a submodule run a written graph in place of its own forward pass.

    Raises:
        ValueError: If the record is none, or the submodule lacks a tensor that it names.
    """
    forward = TracedForward(module, record)
    forward.expect_tensors()
    module.forward = forward.run  # a method: `torch.export` looks at its code
