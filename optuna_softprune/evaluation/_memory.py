"""What forward passes share: tensors by key, within a budget of bytes."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import Tensor

# Bytes that memories of earlier searches may hold before they are looked through. Objects of a search that is over are
# in cycles, and Python collects old ones by their number, which is small, not by what they hold.
LEFT_BEHIND = 2**28
_living: weakref.WeakSet[Memory] = weakref.WeakSet()
_making = threading.Lock()


class Memory:
    """Tensors by key; what was used least recently goes first when the budget is spent. Safe for threads.

    Attributes:
        budget: Bytes that it may hold.
        held: Bytes that it holds; a view counts with all the memory that it keeps alive.
        peak: The most that it has held.
        hits: How often what was looked for was there.
        misses: How often it was not.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held: int = 0
        self.peak = self.hits = self.misses = 0
        self._reserved = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        with _making:
            if sum(memory.held for memory in _living) > LEFT_BEHIND:
                gc.collect()
            _living.add(self)

    def reserve(self, size: int) -> bool:
        """Set bytes of the budget aside for good, up to half of it; return whether they are left."""
        with self._lock:
            if self._reserved + size > self.budget // 2:
                return False
            self._make_room(size)
            self._reserved += size
            self._hold(size)
            return True

    def get(self, key: Hashable) -> Tensor | None:
        """Return what is held under `key`, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            tensor: Tensor = entry[0]
            return tensor

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Hold a tensor that nobody writes to, if it fits into the budget at all."""
        size = tensor.untyped_storage().nbytes()
        with self._lock:
            if size > self.budget - self._reserved or key in self._entries:  # another thread may have been faster
                return
            self._make_room(size)
            self._entries[key] = (tensor, size)
            self._hold(size)

    def _make_room(self, size: int) -> None:
        while self.held + size > self.budget:
            _, (_, dropped) = self._entries.popitem(last=False)
            self.held -= dropped

    def _hold(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)
