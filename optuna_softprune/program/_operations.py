"""Operations by the names that a written graph has for them: those on tensors, and nothing else."""

from __future__ import annotations

import operator
from typing import Any

import torch

from optuna_softprune.graph import rule_of

GETITEM = "getitem"
PREFIX = "aten."


def is_plain(operation: Any) -> bool:
    """Whether an operation is one of torch's that does nothing but compute tensors from tensors.

    That is what has a rule, or what torch counts among those that all others are made of.
    """
    return (
        isinstance(operation, torch._ops.OpOverload)
        and str(operation).startswith(PREFIX)
        and (rule_of(operation) is not None or torch.Tag.core in operation.tags)
    )


def operation(name: Any) -> Any:
    """Return the operation of a name.

    Raises:
        ValueError: If there is none, or it does something else.
    """
    if name == GETITEM:
        return operator.getitem
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) == 3 and parts[0] == "aten" and all(part.isidentifier() for part in parts):
        found = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None)
        if is_plain(found):
            return found
    raise ValueError(f"an operation on tensors, but got {name!r}")


def torch_object(name: Any) -> Any:
    """Return a dtype, layout or memory format.

    Raises:
        ValueError: If there is none of that name.
    """
    found = getattr(torch, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise ValueError(f"a dtype, layout or memory format, but got {name!r}")
    return found
