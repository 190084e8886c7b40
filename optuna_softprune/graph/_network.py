"""What the user hands over: unwrapped, checked, its tensors by name, and left in the mode that it had."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from optuna_softprune._errors import ModeWarning, kind_of, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module, name: str = "model") -> nn.Module:
    """Return the plain network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`.

    Args:
        model: The network.
        name: What errors call it.

    Raises:
        TypeError: If `model` is no `nn.Module`, or of a kind that cannot be pruned.
        ValueError: If its parameters are not there yet (lazy or meta modules).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected `{name}` to be a `torch.nn.Module`, but got {kind_of(model)}.")
    plain = model
    while True:
        # `torch.compile(module)` has no public way back; `_orig_mod` is the name that its state dict shows.
        inner = plain.module if isinstance(plain, WRAPPERS) else getattr(plain, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        plain = inner
    if plain is not model:
        warnings.warn(
            f"`{name}` is wrapped in {type(model).__name__}: the {type(plain).__name__} inside it is pruned; "
            "wrap what `prune` returns again.",
            ModeWarning,
            stacklevel=3,
        )
    _refuse_unfit(plain)
    return plain


def _refuse_unfit(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "Expected `model` to be a plain `torch.nn.Module`, but got a TorchScript module: "
            "prune the Python module that it was made of, then script that."
        )
    quantised = [n for n, m in model.named_modules() if ".quantized." in f"{type(m).__module__}."]
    quantised += [n for n, t in tensors(model) if t.is_quantized]
    if quantised:
        raise TypeError(
            f"Expected `model` to be in floating point, but got quantised {shorten(quantised)}: "
            "prune first, quantise the smaller network."
        )
    lazy = [n for n, t in tensors(model) if nn.parameter.is_lazy(t)]
    if lazy:
        raise ValueError(
            f"Expected `model` to be initialised, but got lazy parameters {shorten(lazy)}: "
            "call the model once on a batch."
        )
    meta = [n for n, t in tensors(model) if t.is_meta]
    if meta:
        raise ValueError(
            f"Expected `model` to hold its weights, but got tensors on the meta device: {shorten(meta)}. "
            "Call `model.to_empty(device=...)` and load the trained weights."
        )


def tensors(model: nn.Module, *, aliases: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of `model` with their qualified names, parameters first.

    With `aliases` a tensor that is registered under several names is yielded under each.
    """
    yield from model.named_parameters(remove_duplicate=not aliases)
    yield from model.named_buffers(remove_duplicate=not aliases)


def digest(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers, the same on every device."""
    found = hashlib.sha256()
    for name, tensor in tensors(model):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors(model, aliases=True)}


def memory_ties(model: nn.Module) -> dict[str, str]:
    """Map tensors that are distinct objects over the same elements of memory to the name of one they share them with.

    A tie of one parameter under two names is kept by pruning. Such a tie would be cut. Tensors that lie side by side in
    one storage share nothing.
    """
    by_storage: dict[int, list[tuple[int, int, str, Tensor]]] = {}
    for name, tensor in tensors(model):
        if tensor.numel():
            first, last = _extent(tensor)
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((first, last, name, tensor))
    ties: dict[str, str] = {}
    for held in by_storage.values():
        near: list[tuple[int, int, str, Tensor]] = []  # whose extents overlap, one with the next
        for each in sorted(held, key=lambda each: each[:2]):
            if near and each[0] >= max(last for _, last, _, _ in near):
                near = []
            for other in near:
                if other[1] > each[0] and _overlap(each[3], other[3]):
                    ties.setdefault(each[2], other[2])
                    ties.setdefault(other[2], each[2])
            near.append(each)
    return ties


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a storage that a tensor has an element in, and the one behind the last."""
    first = tensor.storage_offset() * tensor.itemsize
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(first), int(first + (reach + 1) * tensor.itemsize)


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage, whose extents overlap, have an element in common."""
    if one.dtype != other.dtype:
        return True
    (first, last), (start, stop) = _extent(one), _extent(other)
    begin = min(first, start)
    found = torch.zeros((max(last, stop) - begin) // one.itemsize, dtype=torch.bool)
    for each in (one, other):
        offset = each.storage_offset() - begin // each.itemsize
        places = found.as_strided(each.shape, each.stride(), offset)
        if places.any():
            return True
        places.fill_(True)
    return False


@contextlib.contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Put back the mode of every module, whichever it is given meanwhile."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
