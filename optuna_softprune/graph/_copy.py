"""Copies of a network in which each tensor is what it is to become."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Memo = dict[int, Any]
    Replace = Callable[[str, Tensor], Tensor]

# What modules mostly hold: values that need no copy, and containers that are mostly empty.
IMMUTABLE = frozenset({bool, int, float, complex, str, bytes, type(None)})
# What torch's own layers do to a pickle of an older version, and to a copy of theirs nothing.
OF_OLD_PICKLES = frozenset({nn.Conv2d.__setstate__, nn.MultiheadAttention.__setstate__})
MAPPINGS = frozenset({dict, OrderedDict})
CONTAINERS = MAPPINGS | {list, set}


def copy_with(model: nn.Module, replace: Replace) -> nn.Module:
    """Return a deep copy of `model` in which every tensor is what `replace` makes of it.

    All references follow, wherever the network keeps them, so tied tensors stay tied. `replace` is called once
    per tensor with its first qualified name; for one that is neither parameter nor buffer the name is empty.
    """
    memo: Memo = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        memo[id(tensor)] = _like(tensor, replace(name, tensor.detach()))
    try:
        duplicate: nn.Module = _copied(model, memo, replace)
    except Exception as error:
        raise TypeError(
            f"Expected `model` to be deep-copyable, but `copy.deepcopy` failed: {error}. "
            "Keep what cannot be copied (open files, locks, generators) outside of the module."
        ) from error
    return duplicate


def _copied(value: Any, memo: Memo, replace: Replace) -> Any:
    """Return `copy.deepcopy(value, memo)`, 2 to 4 times as fast: most of what a module holds is empty or immutable.

    As there, what is held is whole before what holds it: copies that a module makes in its own way need that.
    """
    kind = type(value)
    if kind in IMMUTABLE:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in CONTAINERS and not value:
        memo[id(value)] = kind()
    elif kind in MAPPINGS:
        memo[id(value)] = duplicate = kind()
        for key, each in value.items():
            name = key if type(key) in IMMUTABLE else _copied(key, memo, replace)
            duplicate[name] = each if type(each) in IMMUTABLE else _copied(each, memo, replace)
    elif kind is list:
        items: list[Any] = []
        memo[id(value)] = items
        items.extend(_copied(each, memo, replace) for each in value)
    elif kind is tuple:
        return tuple(_copied(each, memo, replace) for each in value)
    elif isinstance(value, Tensor):
        memo[id(value)] = _like(value, replace("", value.detach()))
    elif isinstance(value, nn.Module) and not _copies_itself(value):
        memo[id(value)] = duplicate = object.__new__(kind)
        state = vars(duplicate)
        for name, each in vars(value).items():
            if name != "_compiled_call_impl":  # what `module.compile()` has made; `nn.Module` leaves it out too
                state[name] = each if type(each) in IMMUTABLE else _copied(each, memo, replace)
    else:
        with _Replacing(replace):
            duplicate = copy.deepcopy(value, memo)
        if isinstance(value, nn.Module) and isinstance(duplicate, nn.Module):
            _take_over(value, duplicate, memo)
        return duplicate
    return memo[id(value)]


def _take_over(module: nn.Module, duplicate: nn.Module, memo: Memo) -> None:
    """Give what a module's own way to be copied has made the tensors and modes that copies have.

    Such a way need not hand `memo` on, and torchvision's feature extractors come out of theirs in train mode.
    """
    if duplicate.training != module.training:
        duplicate.train(module.training)
    parts = dict(duplicate.named_modules(remove_duplicate=False))
    for path, each in module.named_modules(remove_duplicate=False):
        if path not in parts:
            continue  # another network; whoever compares them says so
        parts[path].training = each.training
        for kind in ("_parameters", "_buffers"):
            made: dict[str, Tensor | None] = getattr(parts[path], kind)
            old: dict[str, Tensor | None] = getattr(each, kind)
            made.update({name: memo[id(held)] for name, held in old.items() if name in made and id(held) in memo})


class _Replacing(TorchFunctionMode):
    """Replaces the tensors that `copy.deepcopy` meets; it would refuse those that are not leaves."""

    def __init__(self, replace: Replace) -> None:
        super().__init__()
        self._replace = replace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = _like(tensor, self._replace("", tensor.detach()))
        return memo[id(tensor)]


def _copies_itself(module: nn.Module) -> bool:
    """Whether a module has a way of its own to be copied."""
    kind = type(module)
    return any(
        (way := getattr(kind, name, None)) is not getattr(nn.Module, name, None) and way not in OF_OLD_PICKLES
        for name in ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__")
    )


def _like(old: Tensor, new: Tensor) -> Tensor:
    """Return `new` as the same kind of tensor as `old`: a parameter stays one, frozen stays frozen."""
    if new.is_inference() and not torch.is_inference_mode_enabled():
        new = new.clone()  # what was made in inference mode is read only outside of it
    if not isinstance(old, nn.Parameter):
        return new
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    vars(parameter).update(vars(old))
    return parameter


def to_working(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a copy of `tensor` on the CPU; floating point in `dtype` if that is one, anything else as it is."""
    tensor = tensor.detach()
    return tensor.to("cpu", dtype if tensor.is_floating_point() else None, copy=True)


def working_copy(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Return a copy of `model` on the CPU in working precision and eval mode."""
    return copy_with(model, lambda _, tensor: to_working(tensor, dtype)).eval()


def let_go(working: nn.Module) -> None:
    """Give the memory of a working copy back, whoever still refers to it: what `torch.export` leaves behind does."""
    for parameter in working.parameters():
        parameter.data = parameter.new_empty(0)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested inputs with every tensor changed: tuples, lists, dicts, and whatever class torch knows as such."""

    def changed(leaf: Any) -> Any:
        if isinstance(leaf, dict):  # of a class that torch does not know
            duplicate = copy.copy(leaf)
            duplicate.update((key, map_tensors(item, change)) for key, item in leaf.items())
            return duplicate
        return change(leaf) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(changed, value)
