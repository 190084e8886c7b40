"""Removed against masked: the smaller module and the masked graph, in working precision on the CPU."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_softprune.graph import copy_with, map_tensors, meta_copy, returned, to_meta, to_working
from optuna_softprune.removal._doubled import Doubled
from optuna_softprune.removal._masked import masked_outputs
from optuna_softprune.removal._remove import remove

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from optuna_softprune.graph import Kept, Network


# Standard deviation of what is added to the example inputs, relative to theirs.
NOISE = 0.5
# Outputs that move less than this, relative to their size, between two inputs hide what happens inside.
LEAST_RESPONSE = 1e-4
# The error that rounding in float64 explains.
SHARP = math.sqrt(torch.finfo(torch.float64).eps)
# By how much the dense network must be better, to be in float64 all through: what is rounded in float32 somewhere may
# be just as good on one input, and not on the next.
MARGIN = 100


class Comparison(NamedTuple):
    """How a removed network compares with the masked one.

    Attributes:
        error: The largest difference of an output, relative to how far it moves between two inputs:
            a network whose output does not move cannot pass for right.
        response: How far the outputs move between two inputs, relative to their size.
    """

    error: float
    response: float


@dataclass(frozen=True, slots=True)
class Verifier:
    """Compares removed and masked networks on inputs near the example's.

    Attributes:
        model: The dense network on the CPU in working precision, in eval mode; it is only read.
        args: The example's positional inputs.
        kwargs: The example's keyword inputs.
        doubled: The same in float64, where operations that name a lower precision run in that; None: in working
            precision, as the code says.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    doubled: nn.Module | None = None

    @classmethod
    def sharpest(cls, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], network: Network) -> Verifier:
        """Return what compares in float64 all through, where the network runs in it although its code names another.

        Rounding in float32 hides little in most networks, but in one that goes over its own output again and again it
        grows to what a wrong group would do.
        """
        own = cls(model, args, kwargs)
        if own.tolerance(network) == SHARP:
            return own
        doubled = cls(model, args, kwargs, copy_with(model, lambda _, tensor: to_working(tensor, torch.float64)))
        with contextlib.suppress(Exception):  # an operation may have no form in float64
            if doubled.compare(network, np.ones(network.units, bool)).error <= SHARP / MARGIN:
                return doubled
        return own

    def tolerance(self, network: Network) -> float:
        """Return the error that rounding explains: the square root of the lowest precision that it runs in."""
        dtypes = [torch.float64]
        for node in () if self.doubled is not None else network.exported.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.is_floating_point():
                dtypes.append(value.dtype)
        return math.sqrt(max(torch.finfo(dtype).eps for dtype in dtypes))

    def compare(self, network: Network, kept: Kept, draw: int = 0) -> Comparison:
        """Compare the network without the units that are not kept with the masked one.

        The removed network runs first, and tells on other inputs how far outputs move. The random state of the CPU is
        put back; that of other devices is never touched.

        Args:
            network: The groups.
            kept: Shape (units,): whether each unit stays.
            draw: Which inputs near the example's, and which random state, are taken.

        Raises:
            Exception: What the removed network's forward pass raises.
        """
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
            Doubled() if self.doubled is not None else contextlib.nullcontext(),
        ):
            for noise in (NOISE, 0.0):  # where noise leaves the domain of the network, the example itself
                inputs = self._inputs(network, noise, 2 * draw + 1)
                small = remove(self._compared, network, kept, share=True)
                removed = self._returned(small, network, inputs, draw)
                masked = self._masked(network, kept, inputs, draw)
                if all(bool(torch.isfinite(output).all()) for output in _floating(masked)):
                    break
            moved = self._returned(small, network, self._inputs(network, NOISE, 2 * draw + 2), draw)
        scales, response = _scales(removed, moved)
        return Comparison(_error(removed, masked, scales), response)

    def macs(self, network: Network, kept: Kept) -> int:
        """Return the multiply-accumulates of the network without the units that are not kept, as torch counts them.

        Raises:
            Exception: If it does not run without data.
        """
        from torch.utils.flop_counter import FlopCounterMode

        small = meta_copy(remove(self.model, network, kept, share=True)).requires_grad_(False)
        dtype = network.exported.dtype
        inputs = map_tensors((self.args, dict(self.kwargs)), lambda tensor: to_meta(to_working(tensor, dtype)))
        with FlopCounterMode(display=False) as counter:
            returned(small, *inputs)
        return int(counter.get_total_flops() // 2)

    @property
    def _compared(self) -> nn.Module:
        return self.model if self.doubled is None else self.doubled

    def _inputs(self, network: Network, noise: float, seed: int) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(seed)
        dtype = torch.float64 if self.doubled is not None else network.exported.dtype

        def near(tensor: Tensor) -> Tensor:
            tensor = to_working(tensor, dtype)
            if not tensor.is_floating_point():  # other values in other places, all of them legal
                return tensor.flatten().roll(seed - 1).view(tensor.shape)
            spread = tensor.std(correction=0).item() if tensor.numel() > 1 else 0.0
            step = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
            return tensor + noise * (spread or 1.0) * step

        inputs: tuple[Any, Any] = map_tensors((self.args, dict(self.kwargs)), near)
        return inputs

    def _masked(self, network: Network, kept: Kept, inputs: tuple[Any, Any], seed: int) -> list[Any]:
        torch.default_generator.manual_seed(seed)
        return _as_tensors(masked_outputs(self._compared, network, kept, network.exported.flatten_inputs(inputs)))

    @staticmethod
    def _returned(small: nn.Module, network: Network, inputs: tuple[Any, Any], seed: int) -> list[Any]:
        args, kwargs = map_tensors(inputs, torch.clone)
        torch.default_generator.manual_seed(seed)
        return _as_tensors(network.exported.flatten_outputs(small(*args, **kwargs)))


def _as_tensors(outputs: Sequence[Any]) -> list[Any]:
    """Return outputs with numbers as tensors, which are compared but for rounding."""
    return [torch.tensor(each, dtype=torch.float64) if isinstance(each, float) else each for each in outputs]


def _floating(outputs: Sequence[Any]) -> list[Tensor]:
    return [each for each in outputs if isinstance(each, Tensor) and each.is_floating_point()]


def _scales(outputs: Sequence[Any], others: Sequence[Any]) -> tuple[list[float], float]:
    """Return the scale of each output, and how far the outputs move relative to their size, at most.

    The scale is how far an output moves between two inputs, but for one that hardly moves a part of its size.
    """
    scales, responses = [], [0.0]
    for one, two in zip(outputs, others, strict=True):
        scale = 1.0
        if isinstance(one, Tensor) and one.is_floating_point() and one.numel():
            moved = (one - two).abs().nan_to_num().max().item()
            size = one.abs().nan_to_num().max().item()
            responses.append(moved / size if size else 0.0)
            scale = max(moved, LEAST_RESPONSE * size) or 1.0
        scales.append(scale)
    return scales, max(responses)


def _error(outputs: Sequence[Any], references: Sequence[Any], scales: Sequence[float]) -> float:
    largest = 0.0
    for got, expected, scale in zip(outputs, references, scales, strict=True):
        if not isinstance(expected, Tensor):
            largest = max(largest, 0.0 if got == expected else float("inf"))
        elif got.shape != expected.shape:
            raise ValueError(f"shape {tuple(got.shape)} of an output instead of {tuple(expected.shape)}")
        elif not expected.is_floating_point():
            largest = max(largest, 0.0 if torch.equal(got, expected) else float("inf"))
        elif not torch.equal(got, expected) and expected.numel():
            # Infinities and NaN of the network's own must stand in the same places.
            same = (got == expected) | (got.isnan() & expected.isnan())
            difference = torch.where(same, torch.zeros((), dtype=got.dtype), (got - expected).abs())
            largest = max(largest, difference.nan_to_num(nan=float("inf")).max().item() / scale)
    return largest
