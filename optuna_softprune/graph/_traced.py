"""A submodule as a graph of its own, and which of its operations is which in the graph of the network."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from optuna_softprune.graph._copy import map_tensors
from optuna_softprune.graph._export import export_submodule
from optuna_softprune.graph._faithful import attributes_kept
from optuna_softprune.graph._operation import operation_name
from optuna_softprune.graph._refusal import first_line
from optuna_softprune.graph._regions import AUTOCAST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch.fx import Graph

    from optuna_softprune.graph._export import ExportedGraph

    # What a module was called with; tensors on the meta device.
    Call = tuple[tuple[Any, ...], dict[str, Any]]


class NotTraceableError(Exception):
    """A submodule cannot be a graph of its own; the message says why and what to do."""


class Examples(NamedTuple):
    """Where a submodule finds how many examples it is given.

    Attributes:
        number: Of its flat inputs.
        axis: Of that input.
        each: Indices of the axis that belong to one example.
        dense: Examples of the graph.
        longer: Examples of the graph of more.
    """

    number: int
    axis: int
    each: int
    dense: int
    longer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPart:
    """A submodule that is its own graph.

    Attributes:
        path: Its qualified name.
        line: The line of code that states a size.
        exported: Its graph; names of tensors begin inside of it.
        in_spec: How its `(args, kwargs)` are flattened.
        out_spec: How what it returns is flattened.
        calls: For each of its calls: node of its graph -> the same in the network's graph.
        longer: Node of its graph -> the same in its graph of more examples; empty: the network takes only as many.
        examples: Where it finds how many examples there are; None: nothing in it follows them.
    """

    path: str
    line: str
    exported: ExportedGraph
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    calls: tuple[Mapping[Node, Node], ...]
    longer: Mapping[Node, Node]
    examples: Examples | None


class Tracing:
    """Makes graphs of the submodules of one network.

    Args:
        model: The network in working precision and eval mode; it is only read.
        inputs: The example's `(args, kwargs)` in working precision.
        exported: The graph of the network.
    """

    def __init__(self, model: nn.Module, inputs: Call, exported: ExportedGraph) -> None:
        self._model, self._inputs, self._exported = model, inputs, exported
        self._calls: tuple[dict[int, list[Call]], dict[int, list[Call]]] | None = None
        self._examples = (1, 1)

    def part(self, path: str, line: str) -> TracedPart:
        """Return a submodule as a graph of its own.

        Args:
            path: Its qualified name.
            line: The line of code that states a size.

        Raises:
            NotTraceableError: If it cannot be one.
        """
        module = self._model.get_submodule(path)
        dense, longer = self._called(module)
        if not dense:
            raise NotTraceableError(f"`{path}` is not called as a module")
        if any(_settings(call) != _settings(dense[0]) for call in dense):
            raise NotTraceableError(f"the calls of `{path}` have other arguments")
        exported, in_spec, out_spec = _exported(path, module, dense[0], self._exported.dtype)
        _expect_plain(path, exported.graph)
        own = _operations(exported.graph)
        names = {name for name, each in self._model.named_modules(remove_duplicate=False) if each is module}
        calls = tuple(_aligned(own, nodes, shapes=True) for nodes in _of_calls(self._exported.graph, names))
        if len(calls) != len(dense) or not all(calls):
            raise NotTraceableError(f"`{path}` alone is another graph than inside of the network")
        examples, more = None, {}
        if longer:
            other, *_ = _exported(path, module, longer[0], self._exported.dtype)
            more = _aligned(own, _operations(other.graph), shapes=False)
            if not more:
                raise NotTraceableError(f"`{path}` is another graph for another number of examples")
            examples = self._found(dense[0], longer[0])
        return TracedPart(
            path=path,
            line=line,
            exported=exported,
            in_spec=in_spec,
            out_spec=out_spec,
            calls=calls,
            longer=more,
            examples=examples,
        )

    def _called(self, module: nn.Module) -> tuple[list[Call], list[Call]]:
        """Return what a module is called with, for the example and for one example more."""
        if self._calls is None:
            longer: dict[int, list[Call]] = {}
            try:
                longer = _calls(self._model, self._longer())
            except Exception:
                longer = {}  # the example's batch is fixed in the forward pass
            self._calls = _calls(self._model, self._inputs), longer
        return self._calls[0].get(id(module), []), self._calls[1].get(id(module), [])

    def _longer(self) -> Any:
        """Return the inputs with the first example twice."""
        flat = self._exported.flatten_inputs(self._inputs)
        first = next((len(each) for each in flat if isinstance(each, Tensor) and each.dim()), 1)
        self._examples = (first, first + 1)
        return map_tensors(
            self._inputs,
            lambda each: torch.cat([each, each[:1]]) if each.dim() and len(each) == first else each,
        )

    def _found(self, dense: Call, longer: Call) -> Examples | None:
        """Return the first axis of an input that is as long as there are examples, or a multiple of it."""
        few, many = self._examples
        pairs = zip(pytree.tree_leaves(dense), pytree.tree_leaves(longer), strict=True)
        for number, (one, other) in enumerate(pairs):
            if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.dim() != other.dim():
                continue
            for axis, (length, more) in enumerate(zip(one.shape, other.shape, strict=True)):
                if length != more and length * many == more * few and length % few == 0:
                    return Examples(number, axis, length // few, few, many)
        return None


def _calls(model: nn.Module, inputs: Any) -> dict[int, list[Call]]:
    """Return what each module is called with in a forward pass."""
    calls: dict[int, list[Call]] = {}

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(id(module), []).append(map_tensors((args, kwargs), lambda each: each.to("meta")))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        args, kwargs = map_tensors(inputs, torch.clone)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), attributes_kept(model):
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _settings(call: Call) -> Any:
    """Return what a call is given, but for what its tensors hold."""
    return pytree.tree_map_only(Tensor, lambda each: (tuple(each.shape), each.dtype), call)


def _exported(path: str, module: nn.Module, call: Call, dtype: torch.dtype | None) -> Any:
    strange = [
        type(each).__name__
        for each in pytree.tree_leaves(call)
        if not isinstance(each, (Tensor, bool, int, float, str, type(None)))
    ]
    if strange:
        raise NotTraceableError(
            f"`{path}` is given a `{strange[0]}`, and a graph of its own takes tensors, numbers and texts only: "
            "let its forward pass take the tensors inside"
        )
    args, kwargs = map_tensors(call, lambda each: torch.zeros_like(each, device="cpu"))
    try:
        return export_submodule(module, args, kwargs, dtype)
    except Exception as error:
        raise NotTraceableError(f"`{path}` alone cannot be exported ({first_line(error)})") from error


def _expect_plain(path: str, graph: Graph) -> None:
    """Refuse what is no operation on tensors, or changes the module itself."""
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or node.target is operator.getitem:
            continue
        name = operation_name(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise NotTraceableError(f"`{name}` in `{path}` is no single operation")
        if node.meta.get(AUTOCAST):
            raise NotTraceableError(f"`{name}` in `{path}` runs under an autocast of the network's own")
        written: Any = node.args[0] if node.args and node.target._schema.is_mutable else None
        if isinstance(written, Node) and written.op == "placeholder":
            raise NotTraceableError(f"`{name}` writes to what `{path}` holds or is given")


def _operations(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _of_calls(graph: Graph, names: set[str]) -> Iterator[list[Node]]:
    """Yield the operations of each call of a module, which has some names."""
    calls: dict[str, list[Node]] = {}
    for node in _operations(graph):
        for call, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            if path in names:
                calls.setdefault(call, []).append(node)
    yield from calls.values()


def _aligned(own: Sequence[Node], others: Sequence[Node], *, shapes: bool) -> dict[Node, Node]:
    """Return which operation, and operand, of a graph is which in another, which may lack some; empty if none fits."""
    found: dict[Node, Node] = {}
    rest = list(reversed(others))
    for node in own:
        if not rest or node.target != rest[-1].target or (shapes and _shape(node) != _shape(rest[-1])):
            continue  # nobody in the network needs it
        other = rest.pop()
        sources = zip(_operands(node), _operands(other), strict=False)
        if any(found.setdefault(one, two) is not two for one, two in [*sources, (node, other)]):
            return {}
    return {} if rest else found


def _operands(node: Node) -> list[Node]:
    """Return the operands of an operation, one after the other."""
    operands: list[Node] = []
    map_arg((node.args, node.kwargs), operands.append)
    return operands


def _shape(node: Node) -> Any:
    return pytree.tree_map_only(Tensor, lambda each: tuple(each.shape), node.meta.get("val"))
