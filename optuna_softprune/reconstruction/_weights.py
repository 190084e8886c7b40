"""What gives a smaller network its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from optuna_softprune.graph import Kept
    from optuna_softprune.reconstruction._statistics import Statistics


class Shared(Protocol):
    """Solutions that candidates share."""

    def get(self, key: Hashable) -> Tensor | None:
        """Return what is held under a key, or None."""
        ...

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Hold a tensor that nobody writes to, for as long as there is room."""
        ...


class Solutions:
    """What is known of one candidate's weights.

    Attributes:
        shared: Solutions that candidates share; None: they share none.
        own: Qualified name -> weights of this candidate that came with others.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = shared
        self.own: dict[str, Tensor] = {}


class Weights(Protocol):
    """For a tensor and a candidate: what the smaller network holds.

    Attributes:
        depends: Qualified name of a tensor -> groups (positions) that it depends on besides those that cut it.
    """

    @property
    def depends(self) -> Mapping[str, frozenset[int]]: ...

    def ordered(self, ranks: NDArray[np.int64]) -> Weights:
        """Return what does the same, faster for candidates that take units in an order.

        Args:
            ranks: Shape (units,): place of each unit in its group, 0 for the last to go.
        """
        ...

    def of(self, name: str, dense: Tensor, kept: Kept, known: Solutions) -> Tensor:
        """Return a parameter or buffer of the smaller network: `dense` itself if it stays as it is.

        Args:
            name: Its qualified name.
            dense: It in the dense network.
            kept: Shape (units,): whether each unit stays.
            known: What is known of the candidate.
        """
        ...

    def measured(self, kept: Kept) -> Sequence[Statistics]:
        """Return the statistics that are measured on the smaller network, not made of the dense one's."""
        ...

    def inputs(self, model: nn.Module) -> Iterator[Sequence[Any]]:
        """Yield the positional inputs that they are measured on, on the device of a network."""
        ...

    def measure(self, small: nn.Module, kept: Kept) -> None:
        """Fill in these statistics of a smaller network, by running it; nothing else of it changes."""
        ...

    def expect_unchanged(self, model: nn.Module) -> None:
        """Raise a ValueError if the dense network is no longer the one that this was made for."""
        ...

    def describe(self) -> list[str]:
        """Return lines of text that say what is done to which layers."""
        ...
