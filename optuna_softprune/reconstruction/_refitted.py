"""Weights that are refitted where that is possible, and sliced elsewhere."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from optuna_softprune._errors import shorten
from optuna_softprune.calibration import on_device_of
from optuna_softprune.graph import digest, groups_of, modes_kept
from optuna_softprune.reconstruction._sliced import sliced
from optuna_softprune.reconstruction._statistics import Measurement, statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from optuna_softprune.calibration import Calibration
    from optuna_softprune.graph import Kept, Network
    from optuna_softprune.reconstruction._refit import Refit
    from optuna_softprune.reconstruction._statistics import Statistics
    from optuna_softprune.reconstruction._weights import Solutions


class Refitted:
    """For a tensor and a candidate: refitted, measured or sliced.

    Args:
        model: The dense network; it is only read.
        network: Its groups.
        calibration: The data; statistics of batch norms are measured on a few samples of it.
        refits: Name of a weight -> its refit.
        reasons: Name of a weight that reads a group -> why it is not refitted.

    Attributes:
        depends: Qualified name of a tensor -> groups (positions) that it depends on besides those that cut it.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        calibration: Calibration,
        refits: Mapping[str, Refit],
        reasons: Mapping[str, str],
    ) -> None:
        self._network, self._calibration = network, calibration
        self._refits, self._reasons = refits, reasons
        self._of_bias = {each.contraction.bias: each for each in refits.values() if each.contraction.bias is not None}
        self._few = calibration.few(model, network.groups)
        self._statistics = statistics(network, self._few.corrections)
        self._digest = digest(model)
        self.depends: Mapping[str, frozenset[int]] = {
            **{name: groups_of(network, refit.units) for name, refit in self._of_bias.items()},
            **{name: each.groups for each in self._statistics for name in (each.mean, each.variance)},
        }

    def ordered(self, ranks: NDArray[np.int64]) -> Refitted:
        """Return what does the same, faster for candidates that take units in an order."""
        other = copy.copy(self)
        other._refits = {name: refit.ordered(ranks) for name, refit in self._refits.items()}
        other._of_bias = {
            each.contraction.bias: each for each in other._refits.values() if each.contraction.bias is not None
        }
        return other

    def expect_unchanged(self, model: nn.Module) -> None:
        """Raise a ValueError if weights are not those that were calibrated."""
        if digest(model) != self._digest:
            raise ValueError(
                "Expected the network's weights to be those that were calibrated when the search space was made, but "
                "they have changed since then: make the space again."
            )

    def of(self, name: str, dense: Tensor, kept: Kept, known: Solutions) -> Tensor:
        """Return a parameter or buffer of the smaller network: `dense` itself if it stays as it is."""
        refit = self._refits.get(name) or self._of_bias.get(name)
        if refit is None:
            return sliced(self._network, name, dense, kept)
        if name not in known.own:
            names = refit.contraction.weight, refit.contraction.bias
            found = refit.of(kept, known.shared)
            known.own.update((n, each) for n, each in zip(names, found, strict=True) if n and each is not None)
        return known.own[name]

    def measured(self, kept: Kept) -> Sequence[Statistics]:
        """Return the statistics of batch norms that normalise something else than in the dense network."""
        return [each for each in self._statistics if each.is_stale(self._network, kept)]

    def inputs(self, model: nn.Module) -> Iterator[Sequence[Any]]:
        """Yield the calibration data on the device of a network."""
        return on_device_of(model, self._few.batches, "batch-norm statistics")

    def measure(self, small: nn.Module, kept: Kept) -> None:
        """Write the statistics of the calibration data into a smaller network."""
        stale = self.measured(kept)
        if not stale:
            return
        buffers = dict(small.named_buffers())
        pooled = [each.pooled(kept) for each in stale]
        measurement = Measurement({id(buffers[each.mean]): found for each, found in zip(stale, pooled, strict=True)})
        device = next(iter(buffers.values())).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            with modes_kept(small):
                small.eval()
                for batch in self.inputs(small):
                    with measurement:
                        small(*batch)
            for each, found in zip(stale, pooled, strict=True):
                if found.count:
                    mean, variance = found.moments()
                    buffers[each.mean].copy_(mean)
                    buffers[each.variance].copy_(variance)

    def describe(self) -> list[str]:
        """Return which layers are refitted, and why others are not."""
        lines = [f"refitted on {self._calibration}", f"  weights: {shorten(list(self._refits)) or 'none'}"]
        if self._statistics:
            lines.append(f"  statistics: {shorten([each.mean.rpartition('.')[0] for each in self._statistics])}")
        by_reason: dict[str, list[str]] = {}
        for name, reason in self._reasons.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f"  not refitted, {reason}: {shorten(names)}" for reason, names in by_reason.items()]
        return lines
