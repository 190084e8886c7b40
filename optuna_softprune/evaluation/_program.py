"""The exported graph as a program that runs at any candidate's size, and runs only what is not known yet."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from optuna_softprune.evaluation._sizes import follows_batch, resizes
from optuna_softprune.graph import AUTOCAST, RECURRENT, dependences, operation_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna_softprune.evaluation._sizes import Sizes
    from optuna_softprune.graph import Network

# Marked as random by torch, but not in eval mode.
RANDOM_IN_TRAINING = frozenset(
    ["dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rrelu", "scaled_dot_product_attention"]
) | frozenset(RECURRENT)
# What may return its operand, or a view of it, without being marked as a view.
MAYBE_VIEWS = frozenset(
    ["reshape", "flatten", "contiguous", "dropout", "to", "type_as", "pad", "expand_as", "getitem", "positive", "conj"]
)
# What returns memory of its own, besides what is element by element.
NEW = frozenset(["linear", "matmul", "batch_norm", "layer_norm", "group_norm", "instance_norm"]) | {
    f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)
}


class NotSharedError(Exception):
    """Passes of a network cannot be shared; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How one value is made of others; values are known by their number.

    Attributes:
        sources: What it reads.
        groups: The groups (positions among the network's) whose kept units it depends on.
        of_input: Whether it depends on the inputs.
        shared: Whether it is looked up and kept: something that reads it depends on more groups than it does, and it
            is not returned.
        run: (values by number, sizes) -> its value.
        done_with: What nobody reads afterwards.
    """

    sources: tuple[int, ...]
    groups: tuple[int, ...]
    of_input: bool
    shared: bool
    run: Callable[[list[Any], Sizes], Any]
    done_with: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One forward pass.

    Attributes:
        length: Number of values.
        inputs: Numbers of the flat inputs.
        weights: Number -> qualified name of a parameter or buffer, and the groups that it depends on.
        constants: Number -> a tensor that no candidate changes.
        norms: Number of a batch norm -> numbers of its running mean and variance.
        operations: Number -> operation, in execution order.
        outputs: The flat outputs: a number each, or (for what is no value) a constant of any kind in a tuple.
        example: The flat example inputs, as fakes; of what is no tensor the value.
        batch: Length of axis 0 of the first example input.
        largest_bytes: Bytes that the largest value of the dense network takes for one example.
        total_bytes: Bytes that all values take for one example.
        weight_bytes: Bytes of all parameters and buffers.
    """

    length: int
    inputs: tuple[int, ...]
    weights: Mapping[int, tuple[str, tuple[int, ...]]]
    constants: Mapping[int, Tensor]
    operations: Mapping[int, Operation]
    norms: Mapping[int, tuple[int, int]]
    outputs: tuple[int | tuple[Any], ...]
    example: tuple[Any, ...]
    batch: int
    largest_bytes: int
    total_bytes: int
    weight_bytes: int


def examples(flat: Sequence[Any]) -> int:
    """Return the length of axis 0 of the first input that has one."""
    return next((int(each.shape[0]) for each in flat if isinstance(each, Tensor) and each.dim()), 1)


def program(
    network: Network, depends: Mapping[str, frozenset[int]], dtype: torch.dtype, device: torch.device
) -> Program:
    """Return the program of a network with weights of `dtype` on `device`.

    Args:
        network: The groups.
        depends: Qualified name of a tensor -> groups that it depends on besides those that cut it.
        dtype: Of floating-point weights.
        device: Of all.

    Raises:
        NotSharedError: If a forward pass is random, writes where it may not, or holds what is no operation.
    """
    exported = network.exported
    nodes = list(exported.graph.nodes)
    number = {node: i for i, node in enumerate(nodes)}
    groups = {node: tuple(sorted(found)) for node, found in dependences(network, depends).items()}
    of_input = _of_input(network)
    returned: Any = nodes[-1].args[0]
    read_last: dict[Node, list[int]] = {}
    for source, reader in {source: node for node in nodes for source in node.all_input_nodes}.items():
        read_last.setdefault(reader, []).append(number[source])

    shared = {
        node
        for node in nodes[:-1]
        if node.op == "call_function"
        and isinstance(node.meta.get("val"), Tensor)
        and any(user.op != "output" and groups[user] != groups[node] for user in node.users)
        and node not in returned
    }
    places = {node.name: i for i, node in enumerate(nodes) if node.op == "placeholder"}
    example = tuple(nodes[places[name]].meta.get("val") for name in exported.inputs)
    batch = examples(example)
    operations: dict[int, Operation] = {}
    for node in nodes[:-1]:
        if node.op == "placeholder":
            continue
        _expect_pure(node, number)
        operations[number[node]] = Operation(
            sources=tuple(number[source] for source in node.all_input_nodes),
            groups=groups[node],
            of_input=of_input[node],
            shared=node in shared,
            run=_runner(
                node,
                number,
                network,
                (exported.dtype, dtype, device),
                of_input[node],
                any(source in shared for source in node.all_input_nodes),
            ),
            done_with=tuple(each for each in read_last.get(node, ()) if nodes[each].op == "call_function"),
        )

    made = [node.meta.get("val") for node in nodes if node.op == "call_function" and of_input[node]]
    sizes = [each.numel() // batch * dtype.itemsize for each in made if isinstance(each, Tensor)]
    weights = [nodes[places[name]].meta["val"] for name in exported.tensors]
    return Program(
        length=len(nodes),
        inputs=tuple(places[name] for name in exported.inputs),
        weights={places[name]: (tensor, groups[nodes[places[name]]]) for name, tensor in exported.tensors.items()},
        constants={
            places[name]: constant.to(device, dtype if constant.dtype == exported.dtype else constant.dtype)
            for name, constant in exported.constants.items()
        },
        operations=operations,
        norms={number[node]: (number[node.args[3]], number[node.args[4]]) for node in nodes if _has_statistics(node)},
        outputs=tuple(number[each] if isinstance(each, Node) else (each,) for each in returned),
        example=example,
        batch=batch,
        largest_bytes=max(sizes, default=0),
        total_bytes=sum(sizes),
        weight_bytes=sum(each.numel() for each in weights) * dtype.itemsize,
    )


def _of_input(network: Network) -> dict[Node, bool]:
    """Return for each node whether it depends on the inputs."""
    of_input: dict[Node, bool] = {}
    for node in network.exported.graph.nodes:
        dependent = node.name in network.exported.inputs or any(of_input[source] for source in node.all_input_nodes)
        of_input[node] = dependent or follows_batch(node)  # what is as long as the batch depends on the inputs too
    return of_input


def _has_statistics(node: Node) -> bool:
    """Whether a node is a batch norm with a running mean and variance of the network's own."""
    if node.op != "call_function" or operation_name(node) != "batch_norm":
        return False
    return all(isinstance(each, Node) and each.op == "placeholder" for each in node.args[3:5])


def _expect_pure(node: Node, number: Mapping[Node, int]) -> None:
    """Refuse what cannot be looked up, or not be run by itself."""
    name = operation_name(node)
    if node.target is operator.getitem:
        return
    if node.meta.get(AUTOCAST):
        raise NotSharedError(f"`{name}` runs under an autocast of the network's own")
    if not isinstance(node.target, torch._ops.OpOverload):
        raise NotSharedError(f"`{name}` is no single operation")
    if torch.Tag.nondeterministic_seeded in node.target.tags and name.removesuffix("_") not in RANDOM_IN_TRAINING:
        raise NotSharedError(f"`{name}` is random")
    if _writes(node) and name.removesuffix("_") not in RANDOM_IN_TRAINING:
        written = node.args[0]
        assert isinstance(written, Node)
        later = [user for user in written.users if number[user] > number[node]]
        views = [user for user in written.users if _may_be_view(user)]
        if later or views or written.op == "placeholder" or _may_be_view(written):
            raise NotSharedError(f"`{name}` writes to a tensor that is read elsewhere")


def _writes(node: Node) -> bool:
    name = operation_name(node)
    return name.endswith("_") and not name.endswith("__")


def _may_be_view(node: Node) -> bool:
    viewing = isinstance(node.target, torch._ops.OpOverload) and node.target.is_view
    return viewing or operation_name(node) in MAYBE_VIEWS


def _runner(
    node: Node,
    number: Mapping[Node, int],
    network: Network,
    places: tuple[torch.dtype | None, torch.dtype, torch.device],
    of_input: bool,
    shared_operand: bool,
) -> Callable[[list[Any], Sizes], Any]:
    """Return what computes `node`: in place exactly where its operand is no longer needed."""
    working, dtype, device = places
    operation, writing = _without_writing(node), None if shared_operand else _writing(node)

    def placed(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return dtype if value == working else value
        return device if isinstance(value, torch.device) else value

    args = [placed(each) for each in node.args]
    kwargs = {name: placed(each) for name, each in node.kwargs.items()}
    direct = [(i, number[each]) for i, each in enumerate(args) if isinstance(each, Node)]
    nested = [i for i, each in enumerate(args) if isinstance(each, (list, tuple)) and _holds_nodes(each)]
    named = _holds_nodes(kwargs)
    resized = resizes(node, network.nodes, batched=of_input)
    args += [None] * (max(resized, default=0) + 1 - len(args))

    def run(values: list[Any], sizes: Sizes) -> Any:
        given = args.copy()
        for i, source in direct:
            given[i] = values[source]
        for i in nested:
            given[i] = map_arg(given[i], lambda each: values[number[each]])
        for i, new in resized.items():
            given[i] = new(sizes, given)
        call = writing if writing is not None and sizes.may_write else operation
        if named:
            return call(*given, **map_arg(kwargs, lambda each: values[number[each]]))
        return call(*given, **kwargs)

    return run


def _writing(node: Node) -> Callable[..., Any] | None:
    """Return the operation that writes into its first operand, if that is new memory that nobody else reads."""
    operand = node.args[0] if node.args else None
    if not isinstance(operand, Node) or not _is_new(operand) or len(operand.users) > 1:
        return None
    found, made = operand.meta["val"], node.meta["val"]
    if torch.Tag.pointwise not in node.target.tags or found.shape != made.shape or found.dtype != made.dtype:  # type: ignore[union-attr]
        return None
    _, name, overload = str(node.target).split(".")
    packet = getattr(torch.ops.aten, f"{name.removesuffix('_')}_", None)
    return getattr(packet, overload, None)


def _is_new(node: Node) -> bool:
    """Whether an operation returns memory of its own."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    pointwise = torch.Tag.pointwise in node.target.tags and not _may_be_view(node)
    return pointwise or operation_name(node) in NEW


def _holds_nodes(value: Any) -> bool:
    found: list[Node] = []
    map_arg(value, found.append)
    return bool(found)


def _without_writing(node: Node) -> Callable[..., Any]:
    operation: Any = node.target
    if _writes(node):
        _, name, overload = str(operation).split(".")
        operation = getattr(getattr(torch.ops.aten, name.removesuffix("_")), overload)
    made: Callable[..., Any] = operation
    return made
