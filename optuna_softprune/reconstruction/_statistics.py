"""Statistics of batch norms, measured on what a smaller network makes of the calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from optuna_softprune.calibration import Correction, Pooled, normalisation
from optuna_softprune.graph import kept_indices, operation_name, value_dependences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import Node

    from optuna_softprune.graph import Kept, Network, Units


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Running statistics of one batch norm.

    Attributes:
        mean: Qualified name of the running mean.
        variance: Qualified name of the running variance.
        groups: Groups (positions) whose removal changes what it normalises.
        units: Of its channels; None if none of them is ever removed.
        correction: What statistics of the data that they are measured on differ by from those of all; None: nothing.
    """

    mean: str
    variance: str
    groups: frozenset[int]
    units: Units | None
    correction: Correction | None

    def is_stale(self, network: Network, kept: Kept) -> bool:
        """Whether a candidate normalises something else than the dense network."""
        groups = [network.groups[position] for position in self.groups]
        return not all(kept[each.first_unit : each.first_unit + each.size].all() for each in groups)

    def pooled(self, kept: Kept) -> Pooled:
        """Return what pools the statistics of a candidate."""
        if self.correction is None or self.units is None:
            return Pooled(self.correction)
        stay = torch.from_numpy(np.flatnonzero(kept_indices(self.units, kept)))
        return Pooled(Correction(*(each.index_select(0, stay.to(each.device)) for each in self.correction)))


def statistics(network: Network, corrections: Mapping[str, Correction]) -> tuple[Statistics, ...]:
    """Return the batch norms whose input changes with what is removed, in execution order."""
    depend = value_dependences(network)
    found: dict[tuple[str, str], frozenset[int]] = {}
    for node in network.exported.graph.nodes:
        if node.op == "call_function" and operation_name(node) == "batch_norm":
            x, *vectors = node.args[:5]
            mean, variance = (_name(network, each) for each in vectors[2:4])
            if mean and variance and depend[x]:
                found[mean, variance] = found.get((mean, variance), frozenset()) | depend[x]
    return tuple(
        Statistics(
            mean=mean,
            variance=variance,
            groups=groups,
            units=network.tensors.get((mean, 0)),
            correction=corrections.get(mean),
        )
        for (mean, variance), groups in found.items()
    )


def _name(network: Network, node: Node | Any) -> str | None:
    return None if node is None else network.exported.tensors.get(node.name)


class Measurement(TorchFunctionMode):
    """Lets batch norms normalise each batch by its own statistics, and pools these over batches.

    Args:
        pooled: id of a running mean -> where the statistics of its batch norm are pooled.
    """

    def __init__(self, pooled: Mapping[int, Pooled]) -> None:
        super().__init__()
        self._pooled = pooled

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = normalisation(func, args, kwargs)
        pooled = None if given is None else self._pooled.get(id(given["running_mean"]))
        if given is None or pooled is None:
            return func(*args, **kwargs)
        settings = {each: given[each] for each in ("weight", "bias", "eps") if each in given}
        return F.batch_norm(given["input"], *pooled.add(given["input"]), **settings)
