"""Refitted layers on the data they were calibrated with: what they make is never further from the dense outputs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import candidates
from hypothesis import HealthCheck, given, settings
from torch.overrides import TorchFunctionMode

from optuna_softprune import Calibration, LeastSquares, PruningSpace
from optuna_softprune.graph import kept_indices, tensors
from optuna_softprune.removal import remove
from optuna_softprune.testing import ZOO, randomise
from optuna_softprune.testing.strategies import random_networks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from optuna_softprune.calibration import Moments
    from optuna_softprune.testing import RandomNetwork

# Layer -> axes of its output behind the channels.
LAYERS = {F.linear: 0, F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
LAYERS |= {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}


class Calls(TorchFunctionMode):
    """Notes the calls of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in LAYERS:
            self.made.append((func, args))
        return func(*args, **(kwargs or {}))


def taps(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a weight with one position of its kernel at a time, zeros elsewhere."""
    for place in itertools.product(*map(range, weight.shape[2:])):
        alone = torch.zeros_like(weight)
        alone[(slice(None), slice(None), *place)] = weight[(slice(None), slice(None), *place)]
        yield alone


def error(made: torch.Tensor, moments: Moments) -> float:
    """Return the sum of squares of outputs (taps, channels, positions), about their means where these are made up."""
    if moments.shifts_bias or moments.normalised:
        made = made - made.mean(2, keepdim=True)
    return made.square().sum().item()


def assert_never_worse(model: nn.Module, args: tuple[Any, ...]) -> int:
    """Compare refitted and sliced weights of full size, tap by tap; return how many were compared.

    Means are taken off where a bias or a batch norm makes up for them: then errors are smaller still.
    """
    calibration = Calibration([args])
    try:
        space = PruningSpace(model, args, reconstruction=LeastSquares(calibration))
    except ValueError:
        return 0  # nothing to prune
    names = {id(tensor): name for name, tensor in tensors(model)}
    moments = calibration.moments(model, space.groups)
    with Calls() as calls, torch.no_grad():
        model(*args)
    compared = 0
    for c in candidates(space, 2):
        kept, axes = space.candidate(c).kept, space._network.tensors
        held = [dict(tensors(each)) for each in (space.prune(c), remove(model, space._network, kept, share=False))]
        made: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}  # of both weights, in each call
        for func, (x, weight, *more) in calls.made:
            name = names.get(id(weight), "")
            if name not in moments or torch.equal(held[0][name], held[1][name]):
                continue
            units = [axes.get((name, axis)) for axis in range(weight.dim())]
            stays = [
                np.arange(n) if own is None else np.flatnonzero(kept_indices(own, kept))
                for own, n in zip(units, weight.shape, strict=True)
            ]
            outputs = 1 if "transpose" in func.__name__ else 0
            for i in (0, 1):
                changed = torch.zeros_like(weight)
                with torch.no_grad():
                    changed[np.ix_(*stays)] = held[i][name] - weight[np.ix_(*stays)]
                    gone = np.setdiff1d(np.arange(weight.shape[1 - outputs]), stays[1 - outputs])
                    outs = np.ix_(stays[outputs], gone) if outputs == 0 else np.ix_(gone, stays[outputs])
                    changed[outs] = -weight[outs]
                channel = x.dim() - 1 - LAYERS[func]
                of_taps = [func(x, alone, None, *more[1:]).movedim(channel, 0).flatten(1) for alone in taps(changed)]
                made.setdefault(name, ([], []))[i].append(torch.stack(of_taps))
        for name, outputs_of_calls in made.items():
            # A layer that is called again has one bias for all calls.
            refitted, sliced = (error(torch.cat(outs, 2), moments[name]) for outs in outputs_of_calls)
            assert refitted <= sliced * (1 + 1e-9) + 1e-12, name
            compared += 1
    return compared


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", [n for n in ZOO if n.groups], ids=lambda network: network.name)
def test_no_layer_is_worse_than_without(network: Any) -> None:
    args = tuple(x.double() if x.is_floating_point() else x for x in network.inputs())
    compared = assert_never_worse(randomise(network.build()).double().eval(), args)
    assert compared or network.name not in ("residual", "grouped", "transposed", "u_net", "dense_concat", "sequence")


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(random_networks())
def test_no_layer_of_a_random_network_is_worse_than_without(model: RandomNetwork) -> None:
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_never_worse(randomise(model).double().eval(), (x,))
