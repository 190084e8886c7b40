"""Forward passes on torch's meta device, where tensors have sizes but no values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from optuna_softprune.graph._copy import copy_with, map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# What has the sizes of its first argument, which takes torch long to find out there.
ELEMENTWISE = frozenset(
    {torch.relu, torch.sigmoid, torch.tanh, Tensor.relu, Tensor.sigmoid, Tensor.tanh, F.relu, F.relu6, F.hardtanh}
    | {F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.elu, F.leaky_relu, F.softplus}
)
# The same as operations of a graph, which traced parts run.
ELEMENTWISE |= {
    getattr(torch.ops.aten, name).default
    for name in ("relu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu")
}


def to_meta(tensor: Tensor) -> Tensor:
    """Return a tensor like `tensor` without values."""
    return torch.empty_like(tensor, device="meta")


def meta_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` without values."""
    return copy_with(model, lambda _, tensor: to_meta(tensor))


def returned(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], mode: TorchFunctionMode | None = None
) -> Any:
    """Return what a module on the meta device returns, without a trace in the random state."""
    args, kwargs = map_tensors((args, dict(kwargs)), torch.clone)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("meta"), mode or Shortcuts():
        return module(*args, **kwargs)


def shortcut(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a function returns there, of some of the commonest without asking torch."""
    if args and type(args[0]) is Tensor and args[0].is_floating_point():
        if function in ELEMENTWISE and "out" not in kwargs:
            return args[0] if kwargs.get("inplace") else torch.empty_like(args[0])
        given: Sequence[Any] = ()
        if function is F.batch_norm and not kwargs.get("training"):
            given = [*args[1:], kwargs.get("weight"), kwargs.get("bias")]
        if function is torch.ops.aten.batch_norm.default and not args[5]:
            given = args[1:5]
        if given and all(each is None or list(each.shape) == [args[0].shape[1]] for each in given):
            return torch.empty_like(args[0])
    return function(*args, **kwargs)


class Shortcuts(TorchFunctionMode):
    """Takes the shortcuts."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return shortcut(func, args, kwargs or {})
