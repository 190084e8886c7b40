"""What gives a smaller network its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch import Tensor, nn

    from optuna_softprune.graph import Kept


class Known(Protocol):
    """Solutions that candidates share."""

    def get(self, key: Hashable) -> Tensor | None:
        """Return what is held under a key, or None."""
        ...

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Hold a tensor that nobody writes to, for as long as there is room."""
        ...


class Fresh:
    """Solutions of one candidate."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable) -> Tensor | None:
        """Return what is held under a key, or None."""
        return self._held.get(key)

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Hold a tensor."""
        self._held[key] = tensor


class Weights(Protocol):
    """For a tensor and a candidate: what the smaller network holds.

    Attributes:
        depends: Qualified name of a tensor -> groups (positions) that it depends on besides those that cut it.
    """

    @property
    def depends(self) -> Mapping[str, frozenset[int]]: ...

    def of(self, name: str, dense: Tensor, kept: Kept, known: Known) -> Tensor:
        """Return a parameter or buffer of the smaller network: `dense` itself if it stays as it is.

        Args:
            name: Its qualified name.
            dense: It in the dense network.
            kept: Shape (units,): whether each unit stays.
            known: What candidates share.
        """
        ...

    def measured(self, kept: Kept) -> Sequence[str]:
        """Return the names of buffers that are measured on the smaller network, not made of the dense one's."""
        ...

    def measure(self, small: nn.Module, kept: Kept) -> None:
        """Fill in these buffers of a smaller network, by running it; nothing else of it changes."""
        ...

    def expect_unchanged(self, model: nn.Module) -> None:
        """Raise a ValueError if the dense network is no longer the one that this was made for."""
        ...

    def describe(self) -> list[str]:
        """Return lines of text that say what is done to which layers."""
        ...
