"""Importances that run the dense network on calibration data."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optuna_softprune.calibration import Calibration, expect_calibration
from optuna_softprune.graph import Side, tensors
from optuna_softprune.importance._weights import by_index, by_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from optuna_softprune.calibration import Moments
    from optuna_softprune.graph import Group, Slices
    from optuna_softprune.importance._protocol import Scores


@dataclass(frozen=True, slots=True)
class ActivationEnergy:
    """How much of the next layers' input energy comes from a unit: mean square activation times squared weights.

    Summed over the layers that read the unit, this is what their outputs lose in the mean square if activations are
    uncorrelated. One forward pass on each batch. Take it when there is some unlabelled data like that of the metric:
    on autoencoders at 50 % it was worth 4 dB over the L2 norm of the weights that make a unit. With a reconstruction
    take `ReconstructionError`.

    Args:
        calibration: The data; a few hundred samples are enough.
    """

    calibration: Calibration = field(repr=False)

    def __post_init__(self) -> None:
        expect_calibration(self.calibration)

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return the energy of each unit, averaged over the data."""
        moments = self.calibration.moments(model, groups)
        weights = dict(tensors(model))
        energies = {name: energy_of(weights[name].detach(), each) for name, each in moments.items()}
        return [
            sum((by_unit(energies[each.tensor], each) for each in slices), np.zeros(group.size))
            for group, slices in zip(groups, readers(groups, energies), strict=True)
        ]


def energy_of(weight: Tensor, moments: Moments) -> Scores:
    """Return the energy that comes from each index of the axis of a weight that reads."""
    contraction = moments.contraction
    energy = moments.energy * contraction.matrices(contraction.rows(weight)).double().square().sum(1).cpu()
    # In a grouped convolution each group of channels meets the same positions of the weight's input axis.
    by_index: Scores = (energy.flatten() if contraction.axis == 0 else energy.sum(0)).numpy()
    return by_index


def readers(groups: Sequence[Group], seen: Container[str]) -> list[list[Slices]]:
    """Return for each group the slices of weights that were seen to read it."""
    read = [[s for s in group.slices if s.side is Side.INPUT and s.tensor in seen] for group in groups]
    for group, slices in zip(groups, read, strict=True):
        if not slices:
            raise ValueError(
                f"Expected every group to be read by a linear layer or a convolution, but nothing was seen to "
                f"read {group.name!r}: take `Magnitude` or `Taylor`, or put the group in `ignored`."
            )
    return read


@dataclass(frozen=True, slots=True)
class Taylor:
    """How much the loss changes to first order when the weights that go with a unit become zero.

    The squared sum of weight times gradient over the whole unit, averaged over batches (Molchanov et al., "Importance
    Estimation for Neural Network Pruning", 2019, equation 9, with the group's slices as the set). One forward and one
    backward pass on each batch. Take it when there is a differentiable loss close to the metric.

    Args:
        batches: Anything that `loss` takes. Iterated once.
        loss: `loss(model, batch)` returns a scalar tensor to differentiate.
    """

    batches: Iterable[Any] = field(repr=False)
    loss: Callable[[nn.Module, Any], Tensor] = field(repr=False)

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return the mean squared first-order change of the loss for each unit."""
        parameters = dict(model.named_parameters())
        totals = [np.zeros(group.size) for group in groups]
        count = 0
        for batch in self.batches:
            gradients = self._gradients(model, parameters, batch)
            products = {
                name: parameters[name].detach().double() * gradient.double() for name, gradient in gradients.items()
            }
            for total, group in zip(totals, groups, strict=True):
                change = np.zeros(group.size)
                for slices in group.slices:
                    if slices.tensor in products:
                        change += by_unit(by_index(products[slices.tensor], slices.axis), slices)
                total += change**2
            count += 1
        if not count:
            raise ValueError(
                "Expected `batches` to yield at least one batch, but got none. A generator can be read only once: "
                "give a list or a DataLoader."
            )
        return [total / count for total in totals]

    def _gradients(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: Any) -> dict[str, Tensor]:
        with _all_trainable(parameters.values()):
            loss = self.loss(model, batch)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise TypeError(
                    "Expected `loss(model, batch)` to return a scalar tensor that depends on the weights, "
                    f"but got {loss!r}."
                )
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


@contextmanager
def _all_trainable(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let frozen parameters have a gradient for a while."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
