"""What passes of candidates share: which values depend on which groups, and may be looked up or written over."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from optuna_softprune.graph import AUTOCAST, RECURRENT, dependences, operation_name
from optuna_softprune.program import placement, program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna_softprune.graph import Network
    from optuna_softprune.program import Sizes, Step

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
        run: (values by number, sizes, whether it may write its result into an operand that nobody reads afterwards) ->
            its value.
        done_with: What nobody reads afterwards.
    """

    sources: tuple[int, ...]
    groups: tuple[int, ...]
    of_input: bool
    shared: bool
    run: Callable[[list[Any], Sizes, bool], Any]
    done_with: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shareable:
    """One forward pass of which values can be looked up.

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


def shareable(
    network: Network, depends: Mapping[str, frozenset[int]], dtype: torch.dtype, device: torch.device
) -> Shareable:
    """Return the forward pass of a network with weights of `dtype` on `device`.

    Args:
        network: The groups.
        depends: Qualified name of a tensor -> groups that it depends on besides those that cut it.
        dtype: Of floating-point weights.
        device: Of all.

    Raises:
        NotSharedError: If a forward pass is random, writes where it may not, or holds what is no operation.
    """
    exported = network.exported
    made = program(network, placement(exported.dtype, dtype, device))
    number, nodes = made.number, list(made.number)
    groups = {node: tuple(sorted(found)) for node, found in dependences(network, depends).items()}
    shared = {
        step.node
        for i, step in made.steps.items()
        if isinstance(step.node.meta.get("val"), Tensor)
        and any(user.op != "output" and groups[user] != groups[step.node] for user in step.node.users)
        and i not in made.outputs
    }
    example = tuple(nodes[i].meta.get("val") for i in made.inputs)
    batch = examples(example)
    operations: dict[int, Operation] = {}
    for i, step in made.steps.items():
        _expect_pure(step.node, number)
        operations[i] = Operation(
            sources=step.sources,
            groups=groups[step.node],
            of_input=step.of_input,
            shared=step.node in shared,
            run=_runner(step, any(source in shared for source in step.node.all_input_nodes)),
            done_with=step.done_with,
        )

    values = [step.node.meta.get("val") for step in made.steps.values() if step.of_input]
    sizes = [each.numel() // batch * dtype.itemsize for each in values if isinstance(each, Tensor)]
    weights = {i: nodes[i] for i in made.tensors}
    return Shareable(
        length=len(nodes),
        inputs=made.inputs,
        weights={i: (name, groups[nodes[i]]) for i, name in made.tensors.items()},
        constants={
            i: constant.to(device, dtype if constant.dtype == exported.dtype else constant.dtype)
            for i, constant in made.constants.items()
        },
        operations=operations,
        norms={i: (number[of[0]], number[of[1]]) for i, step in made.steps.items() if (of := _statistics(step.node))},
        outputs=made.outputs,
        example=example,
        batch=batch,
        largest_bytes=max(sizes, default=0),
        total_bytes=sum(sizes),
        weight_bytes=sum(node.meta["val"].numel() for node in weights.values()) * dtype.itemsize,
    )


def _statistics(node: Node) -> list[Node]:
    """Return the running mean and variance of a batch norm with such of the network's own."""
    if node.op != "call_function" or operation_name(node) != "batch_norm":
        return []
    found = [each for each in node.args[3:5] if isinstance(each, Node) and each.op == "placeholder"]
    return found if len(found) == 2 else []


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


def _runner(step: Step, shared_operand: bool) -> Callable[[list[Any], Sizes, bool], Any]:
    """Return what computes a step: in place exactly where its operand is no longer needed."""
    operation, writing = _without_writing(step.node), None if shared_operand else _writing(step.node)
    arguments = step.arguments

    def run(values: list[Any], sizes: Sizes, may_write: bool) -> Any:
        args, kwargs = arguments(values, sizes)
        call = writing if writing is not None and may_write else operation
        return call(*args, **kwargs)

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


def _without_writing(node: Node) -> Callable[..., Any]:
    operation: Any = node.target
    if _writes(node):
        _, name, overload = str(operation).split(".")
        operation = getattr(getattr(torch.ops.aten, name.removesuffix("_")), overload)
    made: Callable[..., Any] = operation
    return made
