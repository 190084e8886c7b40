"""Forward passes in float64 of networks whose code names a lower precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Mapping

LOWER = frozenset({torch.float32, torch.float16, torch.bfloat16})
LOWERING = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})
# What makes a tensor of Python numbers: they are rounded as the code says, as those in the graph are.
OF_NUMBERS = frozenset({torch.tensor, torch.as_tensor, torch.scalar_tensor})


class Doubled(TorchFunctionMode):
    """Lets every operation that makes, or casts to, a lower floating point precision do so in float64.

    What is given to a network that runs in it must be in float64: parameters, buffers and inputs.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in LOWERING:
            return args[0].double()
        given = dict(kwargs or {})
        if func not in OF_NUMBERS:
            args = tuple(map(_named, args))
            given = {name: _named(value) for name, value in given.items()}
        return _made(func(*args, **given))


def _named(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in LOWER else value


def _made(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in LOWER else value
    if type(value) in (list, tuple):
        return type(value)(map(_made, value))
    return value
