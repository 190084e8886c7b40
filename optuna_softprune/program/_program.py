"""An exported graph as a program: how each operation is called, in order, at any candidate's sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from optuna_softprune.program._sizes import follows_batch, stated_by

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna_softprune.graph import Network
    from optuna_softprune.program._sizes import Sizes

    # (values by number, sizes; None: those of the graph) -> positional and keyword arguments.
    Arguments = Callable[[Sequence[Any], Sizes | None], tuple[list[Any], dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How one operation is called; values are known by their number.

    Attributes:
        node: The operation in the graph.
        sources: What it reads.
        of_input: Whether it depends on the inputs.
        arguments: What it is called with.
        done_with: What nobody reads afterwards; of operations only.
    """

    node: Node
    sources: tuple[int, ...]
    of_input: bool
    arguments: Arguments
    done_with: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One forward pass.

    Attributes:
        number: Node -> its number.
        inputs: Numbers of the flat inputs.
        tensors: Number -> qualified name of a parameter or buffer.
        constants: Number -> a tensor that the forward pass has closed over.
        steps: Number -> operation, in execution order.
        outputs: The flat outputs: a number each, or (for what is no value) a constant of any kind in a tuple.
    """

    number: Mapping[Node, int]
    inputs: tuple[int, ...]
    tensors: Mapping[int, str]
    constants: Mapping[int, Tensor]
    steps: Mapping[int, Step]
    outputs: tuple[int | tuple[Any], ...]

    def returned(self, values: Sequence[Any]) -> list[Any]:
        """Return the flat outputs, of which `values` holds those that are values."""
        return [values[each] if isinstance(each, int) else each[0] for each in self.outputs]


def program(network: Network, placed: Callable[[Any], Any] | None = None) -> Program:
    """Return the program of a network.

    Args:
        network: The groups.
        placed: What takes the place of an argument that is no tensor (a dtype, a device); None: itself.
    """
    exported = network.exported
    nodes = list(exported.graph.nodes)
    number = {node: i for i, node in enumerate(nodes)}
    of_input: dict[Node, bool] = {}
    for node in nodes:
        dependent = node.name in exported.inputs or any(of_input[source] for source in node.all_input_nodes)
        of_input[node] = dependent or follows_batch(node)  # what is as long as the batch depends on the inputs too
    read_last: dict[Node, list[int]] = {}
    for source, reader in {source: node for node in nodes for source in node.all_input_nodes}.items():
        if source.op != "placeholder":
            read_last.setdefault(reader, []).append(number[source])
    places = {node.name: i for i, node in enumerate(nodes) if node.op == "placeholder"}
    returned: Any = nodes[-1].args[0]
    return Program(
        number=number,
        inputs=tuple(places[name] for name in exported.inputs),
        tensors={places[name]: tensor for name, tensor in exported.tensors.items()},
        constants={places[name]: constant for name, constant in exported.constants.items()},
        steps={
            number[node]: Step(
                node=node,
                sources=tuple(number[source] for source in node.all_input_nodes),
                of_input=of_input[node],
                arguments=_arguments(node, number, network, of_input[node], placed),
                done_with=tuple(read_last.get(node, ())),
            )
            for node in nodes[:-1]
            if node.op != "placeholder"
        },
        outputs=tuple(number[each] if isinstance(each, Node) else (each,) for each in returned),
    )


def placement(working: torch.dtype | None, dtype: torch.dtype, device: torch.device) -> Callable[[Any], Any]:
    """Return what replaces the working precision by the dtype of a network, and every device by its own.

    Args:
        working: The precision in which the network was exported.
        dtype: Its own.
        device: Its own.
    """

    def placed(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return dtype if value == working else value
        return device if isinstance(value, torch.device) else value

    return placed


def _arguments(
    node: Node, number: Mapping[Node, int], network: Network, batched: bool, placed: Callable[[Any], Any] | None
) -> Arguments:
    """Return what `node` is called with."""
    args = [each if placed is None else placed(each) for each in node.args]
    kwargs = {name: each if placed is None else placed(each) for name, each in node.kwargs.items()}
    direct = [(i, number[each]) for i, each in enumerate(args) if isinstance(each, Node)]
    nested = [i for i, each in enumerate(args) if isinstance(each, (list, tuple)) and _holds_nodes(each)]
    named = _holds_nodes(kwargs)
    stated = stated_by(node, network.nodes, batched=batched)
    missing = [None] * (max(stated, default=0) + 1 - len(args))

    def arguments(values: Sequence[Any], sizes: Sizes | None) -> tuple[list[Any], dict[str, Any]]:
        given = args.copy()
        for i, source in direct:
            given[i] = values[source]
        for i in nested:
            given[i] = map_arg(given[i], lambda each: values[number[each]])
        if sizes is not None and stated:
            given += missing
            for i, each in stated.items():
                given[i] = sizes.argument(each, given[0])
        if named:
            return given, map_arg(kwargs, lambda each: values[number[each]])
        return given, kwargs

    return arguments


def _holds_nodes(value: Any) -> bool:
    found: list[Node] = []
    map_arg(value, found.append)
    return bool(found)
