"""Linear maps that sum over the units of one group: what earlier candidates have summed is taken up again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from optuna_softprune.graph import operation_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from optuna_softprune.evaluation._candidate import Count
    from optuna_softprune.graph import Network

# Blocks of units of a group: a grid of five levels ends on them.
BLOCKS = 4
# Multiply-accumulates from which a block is worth the operations that it adds: one or two milliseconds of a core.
BLOCK_MACS = 10**8
# What treats units one by one, besides what is element by element.
BY_UNIT = frozenset(["view", "reshape", "flatten", "permute", "transpose", "contiguous", "dropout", "batch_norm"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """A linear map of activations that belong to one group, the only operation that mixes its units.

    With units in ranks of removal, last to go first, the value of a candidate that keeps n of them is that of one that
    keeps m < n, plus what the units from m to n add. Sums are always made in this order, from one multiple of
    `block` to the next, so that they do not depend on what was remembered.

    Attributes:
        group: Position of the group among the network's.
        block: Units that are added at a time.
        x: Number of the activations, which have the group along their last axis, and nothing else there.
        weight: Number of the weight.
        bias: Number of the bias; None: there is none.
        roots: Numbers of what the activations are made of that does not depend on the group.
        macs: Multiply-accumulates of a block for one example, those that make its activations included.
    """

    group: int
    block: int
    x: int
    weight: int
    bias: int | None
    roots: tuple[int, ...]
    macs: int

    def is_worthwhile(self, batch: int) -> bool:
        """Whether a block is worth the operations that it adds."""
        return self.macs * batch >= BLOCK_MACS

    def is_whole(self, counts: tuple[Count, ...]) -> bool:
        """Whether a candidate keeps whole blocks, so that sums of larger ones begin with its."""
        count = counts[self.group]
        return isinstance(count, int) and count % self.block == 0


def added(before: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what some units (..., n) add by their weight (features, n) to the sum of those before (..., features)."""
    if before is None:
        return torch.nn.functional.linear(x, weight, bias)
    return torch.addmm(before.flatten(0, -2), x.flatten(0, -2), weight.t()).view(before.shape)


def sums(
    network: Network, groups: Mapping[Node, tuple[int, ...]], number: Mapping[Node, int], batch: int
) -> dict[Node, Sum]:
    """Return the linear maps that are such a sum.

    Args:
        network: The groups.
        groups: Node -> groups that it depends on.
        number: Node -> number of its value.
        batch: Examples in the example inputs.
    """
    found = {}
    for position in range(len(network.groups)):
        inside = {node: None for node in network.exported.graph.nodes if position in groups[node]}
        mixing = next((node for node in inside if not _is_by_unit(node, inside)), None)
        if mixing is None or not _is_sum(mixing, inside, network, position):
            continue
        before = list(inside)[: list(inside).index(mixing)]
        if any(user is not mixing and user not in before for node in before for user in node.users):
            continue
        size = network.groups[position].size
        block = math.ceil(size / BLOCKS)
        sources = dict.fromkeys(source for node in (*before, mixing) for source in node.all_input_nodes)
        x, weight, *bias = (number[each] for each in mixing.args if isinstance(each, Node))
        found[mixing] = Sum(
            group=position,
            block=block,
            x=x,
            weight=weight,
            bias=bias[0] if bias else None,
            roots=tuple(number[source] for source in sources if source not in inside),
            macs=sum(_macs(network, node) for node in (*before, mixing)) * block // size // batch,
        )
    return found


def _is_by_unit(node: Node, inside: Mapping[Node, None]) -> bool:
    """Whether an operation on what depends on a group makes each unit of its value from one unit."""
    if node.op == "placeholder":
        return True
    name = operation_name(node)
    if name in ("linear", "conv1d", "conv2d", "conv3d"):
        return node.args[0] not in inside
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    return pointwise or name in BY_UNIT


def _is_sum(node: Node, inside: Mapping[Node, None], network: Network, position: int) -> bool:
    """Whether a node sums over the units of a group, all of them and no others, and has none of them afterwards."""
    if operation_name(node) != "linear" or not all(each in inside for each in node.args[:2]):
        return False
    weight, *bias = node.args[1:]
    assert isinstance(weight, Node)
    units = network.tensors.get((network.exported.tensors.get(weight.name, ""), 1))
    group = network.groups[position]
    own = set(range(group.first_unit, group.first_unit + group.size))
    return (
        units is not None
        and set(units.tolist()) == own
        and not any(each in inside for each in bias)
        and not any(own.intersection(units.tolist()) for _, units in network.nodes.get(node, ()))
    )


def _macs(network: Network, node: Node) -> int:
    """Return the multiply-accumulates of a node in the dense network."""
    products = network.macs.get(node, ())
    return sum(math.prod(each.meta["val"].shape[axis] for each, axis in lengths) for lengths in products)
