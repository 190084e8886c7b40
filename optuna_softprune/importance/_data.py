"""Importances that run the dense network on calibration data."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from optuna_softprune.graph import Side
from optuna_softprune.importance._weights import by_index, by_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from optuna_softprune.graph import Group, Slices
    from optuna_softprune.importance._protocol import Scores

    Operation = Callable[..., Tensor]

# Operation -> axes of a batched input behind its channels. The weight's input axis is 1, transposed 0.
CHANNELS_BEHIND: dict[Any, int] = {F.linear: 0, F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
TRANSPOSED: dict[Any, int] = {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}


class _InputEnergy(TorchFunctionMode):
    """Sums, for each weight, the mean square of every input channel that it reads, weighted by its norm."""

    def __init__(self, weights: Mapping[int, str]) -> None:
        super().__init__()
        self._weights = weights
        self.energy: dict[str, Scores] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CHANNELS_BEHIND or func in TRANSPOSED:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            name = self._weights.get(id(weight))
            if name is not None:
                self._add(name, func, args[0] if args else kwargs["input"], weight)
        return func(*args, **kwargs)

    def _add(self, name: str, func: Any, x: Tensor, weight: Tensor) -> None:
        transposed = func in TRANSPOSED
        behind = TRANSPOSED[func] if transposed else CHANNELS_BEHIND[func]
        channel = x.dim() - 1 - behind
        positions = x.numel() // x.shape[channel]
        activity = by_index(x.detach().double() ** 2, channel) / positions
        norms = by_index(weight.detach().double() ** 2, 0 if transposed else 1)
        # In a grouped convolution each group of channels meets the same positions of the weight's input axis.
        energy = activity.reshape(-1, len(norms)).sum(axis=0) * norms
        self.energy[name] = self.energy.get(name, np.zeros(len(norms))) + energy


@dataclass(frozen=True, slots=True)
class ActivationEnergy:
    """How much of the next layers' input energy comes from a unit: mean square activation times squared weights.

    Summed over the layers that read the unit, this is what their outputs lose in the mean square if activations are
    uncorrelated. One forward pass on each batch. Take it when there is some unlabelled data like that of the metric:
    on autoencoders at 50 % it was worth 4 dB over the L2 norm of the weights that make a unit.

    Args:
        batches: Tuples (or lists) of the network's positional inputs, on its device. Iterated once; a few hundred
            samples are enough.
    """

    batches: Iterable[Sequence[Any]] = field(repr=False)

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return the energy of each unit, averaged over the batches."""
        mode = _InputEnergy({id(tensor): name for name, tensor in model.named_parameters()})
        count = 0
        with torch.no_grad(), mode:
            for batch in self.batches:
                model(*_as_inputs(batch))
                count += 1
        _expect_batches(count)

        def total(slices: Slices) -> Scores:
            return by_unit(mode.energy[slices.tensor] / count, slices)

        read = [[s for s in g.slices if s.side is Side.INPUT and s.tensor in mode.energy] for g in groups]
        for group, slices in zip(groups, read, strict=True):
            if not slices:
                raise ValueError(
                    f"Expected every group to be read by a linear layer or a convolution, but nothing was seen to "
                    f"read {group.name!r}: take `Magnitude` or `Taylor`, or put the group in `ignored`."
                )
        return [
            sum((total(s) for s in slices), np.zeros(group.size)) for group, slices in zip(groups, read, strict=True)
        ]


def _as_inputs(batch: Any) -> Sequence[Any]:
    if not isinstance(batch, (tuple, list)):
        raise TypeError(
            f"Expected `batches` to yield tuples of the network's inputs, but got {type(batch).__name__}: "
            "write `[(x,) for x in ...]`."
        )
    return batch


def _expect_batches(count: int) -> None:
    if not count:
        raise ValueError(
            "Expected `batches` to yield at least one batch, but got none. A generator can be read only once: "
            "give a list or a DataLoader."
        )


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
        _expect_batches(count)
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
