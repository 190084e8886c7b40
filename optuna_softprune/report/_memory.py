"""The most memory that a forward pass takes."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch import UntypedStorage

    from optuna_softprune.report._running import Call


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of what operations return, for as long as somebody holds it.

    Attributes:
        peak: The most bytes that were held at once.
    """

    def __init__(self, outside: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {each.untyped_storage().data_ptr() for each in outside}
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for each in pytree.tree_leaves(returned):
            if isinstance(each, Tensor):
                self._hold(each.untyped_storage())
        return returned

    def _hold(self, storage: UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._known:
            self._known.add(place)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._let_go, place, size)

    def _let_go(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return parameters and buffers, each memory once."""
    held = {each.untyped_storage().data_ptr(): each for each in (*model.parameters(), *model.buffers())}
    return list(held.values())


def weights_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and buffers."""
    return sum(each.nbytes for each in weights_of(model))


def peak_bytes(model: nn.Module, call: Call, device: torch.device) -> int:
    """Return the most bytes that the values of a forward pass take besides weights and inputs.

    On CUDA that is what its allocator says, scratch space of kernels included; elsewhere it is counted, without it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model(*call[0], **call[1])
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device) - before
        return peak
    inputs = [each for each in pytree.tree_leaves(call) if isinstance(each, Tensor)]
    living = _Living([*weights_of(model), *inputs])
    with living:
        model(*call[0], **call[1])
    return living.peak
