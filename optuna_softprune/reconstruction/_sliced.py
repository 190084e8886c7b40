"""Weights that are the dense network's, without what is removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optuna_softprune.graph import kept_indices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from optuna_softprune.graph import Kept, Network
    from optuna_softprune.reconstruction._statistics import Statistics
    from optuna_softprune.reconstruction._weights import Solutions

# Elements from which a kernel's kept weights are selected along both axes at once.
LARGE = 2**17


@dataclass(frozen=True, slots=True)
class Sliced:
    """What is kept of the dense tensor.

    Attributes:
        network: The groups.
    """

    network: Network
    depends: Mapping[str, frozenset[int]] = field(default_factory=dict, init=False)

    def ordered(self, ranks: NDArray[np.int64]) -> Sliced:
        """Return itself."""
        return self

    def of(self, name: str, dense: Tensor, kept: Kept, known: Solutions) -> Tensor:
        """Return what is kept of a parameter or buffer: `dense` itself if it stays whole, else a new tensor."""
        return sliced(self.network, name, dense, kept)

    def measured(self, kept: Kept) -> Sequence[Statistics]:
        """Return nothing."""
        return ()

    def inputs(self, model: nn.Module) -> Iterator[Sequence[Any]]:
        """Yield nothing."""
        return iter(())

    def measure(self, small: nn.Module, kept: Kept) -> None:
        """Do nothing."""

    def expect_unchanged(self, model: nn.Module) -> None:
        """Do nothing: weights are read when they are sliced."""

    def describe(self) -> list[str]:
        """Return nothing."""
        return []


def sliced(network: Network, name: str, tensor: Tensor, kept: Kept, axes: Iterable[int] | None = None) -> Tensor:
    """Return what is kept of a parameter or buffer along `axes` (default: all); itself if that is all of it."""
    indices: dict[int, Tensor] = {}
    for axis in range(tensor.dim()) if axes is None else axes:
        units = network.tensors.get((name, axis))
        if units is not None and not (stays := kept_indices(units, kept)).all():
            indices[axis] = torch.from_numpy(np.flatnonzero(stays)).to(tensor.device)
    if 1 in indices and tensor.dim() > 2 and tensor.numel() >= LARGE and tensor.is_contiguous():
        rows = indices.pop(0, torch.arange(tensor.shape[0], device=tensor.device))
        tensor = _rows_and_columns(tensor, rows, indices.pop(1))
    for axis, index in indices.items():
        tensor = tensor.index_select(axis, index)
    return tensor


def _rows_and_columns(tensor: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return `tensor[rows][:, columns]`.

    Selecting along axis 0 alone uses all cores: half the time of one axis after the other (512 x 512 x 3 x 3).
    """
    both = (rows.int()[:, None] * tensor.shape[1] + columns.int()).flatten()
    return tensor.flatten(0, 1).index_select(0, both).view(len(rows), len(columns), *tensor.shape[2:])
