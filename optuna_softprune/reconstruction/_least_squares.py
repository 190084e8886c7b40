"""Reconstruction by least squares."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optuna_softprune._errors import CalibrationWarning, shorten
from optuna_softprune.calibration import RIDGE, Calibration, Moments, expect_calibration, expect_ridge
from optuna_softprune.graph import Side, operation_name, tensors
from optuna_softprune.reconstruction._refit import Refit
from optuna_softprune.reconstruction._refitted import Refitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.fx import Node

    from optuna_softprune.graph import Network, Slices

# Operations whose second argument is a weight that can be refitted.
WEIGHTED = frozenset(["linear", "matmul", "mm"]) | {f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)}


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Refits the weights that read what is pruned, so that their outputs on calibration data are the dense network's.

    For every linear layer, convolution and transposed convolution that reads a pruned group, the inputs that are
    removed are written as combinations of those that stay, by ridge regression on the dense network's activations, and
    the weights that read them are added to those of the inputs that stay (as in OBS, OSSCAR and GRAIL). It takes a
    solve for each layer and candidate, no data and no gradients. Convolutions mix channels at one position only. A bias
    is refitted too where no padding hides it.

    Batch norms behind what has changed get the statistics of the calibration data: one pass of at most 128 samples, in
    which they normalise by the statistics of these samples, corrected by what those differ from the statistics of all
    data in the dense network. If nothing is removed, nothing changes.

    Args:
        calibration: The data, like that of the metric; a few hundred samples for small networks.
        ridge: Damping, as a part of the mean square of what a layer reads, in (0, 1]. More of it moves weights less:
            take more for little data.
    """

    calibration: Calibration
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        expect_calibration(self.calibration)
        expect_ridge(self.ridge)

    def fitted(self, model: nn.Module, network: Network) -> Refitted:
        """Return what gives smaller networks of `model` their weights."""
        moments = self.calibration.moments(model, network.groups)
        refits: dict[str, Refit] = {}
        reasons: dict[str, str] = {}
        read = {each.tensor: each for group in network.groups for each in group.slices if each.side is Side.INPUT}
        dense = {name: tensor.detach() for name, tensor in tensors(model)}
        for name, slices in read.items():
            found = self._refit(network, dense, slices, moments.get(name))
            if isinstance(found, Refit):
                refits[name] = found
            else:
                reasons[name] = found
        _warn_of_little_data([moments[name] for name in refits])
        _warn_of_wide_layers([name for name, each in moments.items() if not each.products])
        return Refitted(model, network, self.calibration, refits, reasons)

    def _refit(
        self, network: Network, dense: Mapping[str, Tensor], slices: Slices, moments: Moments | None
    ) -> Refit | str:
        """Return the refit of a contraction, or why there is none."""
        if moments is None:
            return "no linear layer or convolution was seen to read with it"
        contraction = moments.contraction
        readers = _readers(network, contraction.weight, contraction.bias)
        if readers is None:
            return "it is used elsewhere too"
        if any(operation_name(user) != "batch_norm" for node in readers for user in node.users):
            moments = replace(moments, normalised=False)
        units = network.tensors[contraction.weight, contraction.axis].reshape(-1, moments.energy.shape[1])
        if (units != units[0]).any():
            return "whole groups of the convolution go: nothing that stays reads the same"
        damped = moments.damped(self.ridge)
        if not moments.products:
            return f"moments of its {moments.energy.shape[1]:,} inputs would take too much memory"
        if damped is None:
            return "what it reads does not change on the calibration data"
        if not moments.shifts_bias:
            contraction = replace(contraction, bias=None)
        return Refit(
            network=network,
            contraction=contraction,
            weight=dense[contraction.weight],
            bias=None if contraction.bias is None else dense[contraction.bias],
            units=units[0],
            damped=damped,
            mean=moments.mean,
        )


def _readers(network: Network, weight: str, bias: str | None) -> list[Node] | None:
    """Return the contractions that a weight and its bias belong to; None if they are used as something else too."""
    nodes = {node.name: node for node in network.exported.graph.nodes if node.op == "placeholder"}
    of_tensor: dict[str, list[Node]] = {}
    for name, tensor in network.exported.tensors.items():
        of_tensor.setdefault(tensor, []).append(nodes[name])
    readers = [(place, user) for place in of_tensor[weight] for user in place.users]
    as_weight = all(
        operation_name(user) in WEIGHTED and [i for i, each in enumerate(user.args) if each is place] == [1]
        for place, user in readers
    )
    found = [user for _, user in readers]
    as_bias = all(user in found for place in of_tensor.get(bias or "", ()) for user in place.users)
    return found if as_weight and as_bias else None


def _warn_of_little_data(moments: list[Moments]) -> None:
    few = [
        f"`{each.contraction.weight}` ({each.positions:,} for {width:,} inputs)"
        for each in moments
        if each.positions < (width := each.energy.shape[1])
    ]
    if few:
        warnings.warn(
            f"Layers read fewer samples than they have inputs: {shorten(few)}. Give more calibration data, or more "
            "`ridge`.",
            CalibrationWarning,
            stacklevel=4,
        )


def _warn_of_wide_layers(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"Layers whose moments would take too much memory are not refitted: {shorten(names)}.",
            CalibrationWarning,
            stacklevel=4,
        )
