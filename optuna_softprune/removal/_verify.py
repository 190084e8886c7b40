"""Removed = masked: the smaller module against the masked graph, in working precision on the CPU."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_softprune._errors import ExportError, VerificationWarning
from optuna_softprune.graph import first_line, map_tensors, to_working, user_line
from optuna_softprune.removal._masked import masked_outputs
from optuna_softprune.removal._remove import remove

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from optuna_softprune.graph import Group, Kept, Network


# Standard deviation of what is added to the example inputs, relative to theirs.
NOISE = 0.5
# Outputs that move less than this, relative to their size, between two inputs hide what happens inside.
LEAST_RESPONSE = 1e-4


class Comparison(NamedTuple):
    """How a removed network compares with the masked one.

    Attributes:
        error: The largest difference of an output, relative to how far the masked output moves between two inputs:
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
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def compare(self, network: Network, kept: Kept) -> Comparison:
        """Compare the network without the units that are not kept with the masked one, in three forward passes.

        The random state of the CPU is put back; that of other devices is never touched.

        Raises:
            Exception: What the removed network's forward pass raises.
        """
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for noise in (NOISE, 0.0):  # where noise leaves the domain of the network, the example itself
                inputs = self._inputs(network, noise, seed=1)
                masked = self._masked(network, kept, inputs)
                if all(bool(torch.isfinite(output).all()) for output in _floating(masked)):
                    break
            removed = self._removed(network, kept, inputs)
            moved = self._masked(network, kept, self._inputs(network, NOISE, seed=2))
        scales, response = _scales(masked, moved)
        return Comparison(_error(removed, masked, scales), response)

    def _inputs(self, network: Network, noise: float, seed: int) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(seed)
        dtype = network.exported.dtype

        def near(tensor: Tensor) -> Tensor:
            tensor = to_working(tensor, dtype)
            if not tensor.is_floating_point():  # other values in other places, all of them legal
                return tensor.flatten().roll(seed - 1).view(tensor.shape)
            spread = tensor.std(correction=0).item() if tensor.numel() > 1 else 0.0
            step = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(dtype)
            return tensor + noise * (spread or 1.0) * step

        inputs: tuple[Any, Any] = map_tensors((self.args, dict(self.kwargs)), near)
        return inputs

    def _masked(self, network: Network, kept: Kept, inputs: tuple[Any, Any]) -> list[Any]:
        torch.default_generator.manual_seed(0)
        return masked_outputs(self.model, network, kept, network.exported.flatten_inputs(inputs))

    def _removed(self, network: Network, kept: Kept, inputs: tuple[Any, Any]) -> list[Any]:
        exported = network.exported
        small = remove(self.model, network, kept, share=True)
        args, kwargs = map_tensors(inputs, torch.clone)
        torch.default_generator.manual_seed(0)
        return exported.flatten_outputs(small(*args, **kwargs))


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


def tolerance(network: Network) -> float:
    """Return the error that rounding explains: the square root of the lowest precision in the graph."""
    dtypes = [network.exported.dtype]
    for node in network.exported.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point():
            dtypes.append(value.dtype)
    return math.sqrt(max(torch.finfo(dtype).eps for dtype in dtypes))


def protect_what_fails(verifier: Verifier, network: Network) -> Network:
    """Return the network with every group protected that, removed, is not what it is masked.

    All groups are tried together: one unit of each, then a random part of each, about half. Only if that fails they
    are bisected: a part is accepted if it works together with what was accepted before.

    Raises:
        ExportError: If the graph computes something else than the network with nothing removed.
    """
    accepted: list[Group] = []
    reasons: dict[str, str] = {}

    def accept(groups: Sequence[Group]) -> None:
        failure = _failure(verifier, network, [*accepted, *groups])
        if not failure:
            accepted.extend(groups)
        elif len(groups) == 1:
            reasons[groups[0].name] = failure
        else:
            middle = len(groups) // 2
            accept(groups[:middle])
            accept(groups[middle:])

    if network.groups and _failure(verifier, network, network.groups):
        _expect_dense_network_to_agree(verifier, network)
        accept(network.groups)
    return network.without(reasons)


def random_parts(network: Network, groups: Sequence[Group]) -> tuple[Kept, Kept]:
    """Return two masks: without one unit of each of `groups`, and without about half of each."""
    random = np.random.default_rng(0)
    one, many = np.ones(network.units, bool), np.ones(network.units, bool)
    for group in groups:
        order = group.first_unit + random.permutation(group.size)
        one[order[:1]] = False
        # Half of them, more or less: equal groups must not lose equal numbers.
        many[order[: random.integers(group.size // 4, group.size - group.size // 4 - 1, endpoint=True)]] = False
    return one, many


def _failure(verifier: Verifier, network: Network, groups: Sequence[Group]) -> str:
    """Return what goes wrong when units of `groups` are removed, or an empty string."""
    try:
        comparisons = [verifier.compare(network, kept) for kept in random_parts(network, groups)]
    except Exception as failure:
        line = user_line(failure)
        return f"the removed network fails{f' at {line}' if line else ''}: {first_line(failure)}"
    error = max(comparison.error for comparison in comparisons)
    if not error <= tolerance(network):
        return (
            f"the removed network is not the masked one (relative error {error:.1g}): "
            "a size or a position is fixed in the forward pass"
        )
    response = comparisons[0].response
    if response < LEAST_RESPONSE:
        warnings.warn(
            "The output hardly moves with the input, so it could hardly be tested that removing units equals masking "
            f"them (it moves by {response:.1g} of its size): give trained weights, and example inputs like real ones.",
            VerificationWarning,
            stacklevel=2,
        )
    return ""


def _expect_dense_network_to_agree(verifier: Verifier, network: Network) -> None:
    problem = _failure(verifier, network, [])
    if problem:
        raise ExportError(
            "Expected the exported graph to compute what the network computes, but with nothing removed "
            f"{problem}. Randomness, state or a branch on Python values in the forward pass is fixed by "
            "`torch.export`: take it out of the network that is pruned."
        )
