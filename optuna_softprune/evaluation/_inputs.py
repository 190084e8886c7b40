"""The inputs of a metric's calls, recognised by what they hold."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_softprune.evaluation._shareable import NotSharedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from optuna_softprune.evaluation._memory import Memory

# Passes in a row with unknown inputs after which inputs are no longer compared.
PATIENCE = 64


class Place(NamedTuple):
    """The number of a call among those of one metric, the precision of autocast, and the block of examples."""

    call: int
    autocast: torch.dtype | None
    block: int = 0


class Inputs:
    """What the n-th call of the metric was given first, for each n.

    Args:
        memory: Has the budget that they are kept in.
        say: Is told why passes cannot share values.

    Attributes:
        repeated: Whether the metric has given an input twice in a row.
    """

    def __init__(self, memory: Memory, say: Callable[[str], None]) -> None:
        self._memory, self._say = memory, say
        self._known: dict[Place, list[Any]] = {}
        self._strange = 0
        self.repeated = False
        self._lock = threading.Lock()

    def recognise(self, place: Place, flat: Sequence[Any]) -> bool:
        """Whether the inputs of a pass are those that are remembered at its place; the first are remembered.

        Raises:
            NotSharedError: If they are those of the call before: a metric that measures time repeats itself.
        """
        if self._strange >= PATIENCE:
            return False
        with self._lock:
            if place not in self._known:
                self._remember(place, flat)
        if place not in self._known:
            self._say(
                f"Only a part of the forward passes is shared: the metric's inputs take more than half of "
                f"{self._memory.budget / 2**20:.0f} MiB; give `cache_bytes` more."
            )
            return False
        known = _all_equal(self._known[place], flat)
        self._strange = 0 if known else self._strange + 1
        if self._strange == PATIENCE:
            self._say(
                "Forward passes share only weights: the inputs of the metric differ from candidate to candidate "
                "(shuffled data, or a closed loop)."
            )
        return known

    def _remember(self, place: Place, flat: Sequence[Any]) -> None:
        before = self._known.get(place._replace(call=place.call - 1))
        if before is not None and _all_equal(before, flat):
            self.repeated = True
            raise NotSharedError(
                "the metric runs the network again on the same input, as if to measure its speed (one that measures it "
                "in a single pass needs `cache_bytes=0`)"
            )
        if self._memory.reserve(sum(each.nbytes for each in flat if isinstance(each, Tensor))):
            self._known[place] = [each.clone() if isinstance(each, Tensor) else each for each in flat]


def _all_equal(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Compare inputs; what is no tensor was compared with the example's before."""
    pairs = zip(some, others, strict=True)
    return all(_equal(one, other) for one, other in pairs if isinstance(one, Tensor))


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.device.type == "cpu" and one.is_contiguous() and other.is_contiguous():
        return np.array_equal(_words(one), _words(other))  # faster than `torch.equal`, and right for NaN
    return torch.equal(one, other)


def _words(tensor: Tensor) -> NDArray[np.unsignedinteger]:
    """Return the memory of a tensor, eight bytes a number where that many are there."""
    held: NDArray[np.uint8] = tensor.detach().view(-1).view(torch.uint8).numpy()
    return held if held.size % 8 else held.view(np.uint64)
