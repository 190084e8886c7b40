"""What the operation of a graph's node is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.fx import Node


def operation_name(node: Node) -> str:
    """Return the name of a node's operation, of an ATen operation without its overload."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket.__name__)
    return str(getattr(node.target, "__name__", node.target))
