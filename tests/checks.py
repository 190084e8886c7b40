"""What must hold for every search space, by oracles that are not the package's own."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from optuna_softprune import PruningSpace


def candidates(space: PruningSpace, count: int, seed: int = 0) -> Iterator[dict[str, float]]:
    """Yield the largest coefficients, then random ones on the lattice."""
    highest = {name: found.high for name, found in space.distributions.items()}
    yield highest
    random = np.random.default_rng(seed)
    for _ in range(count - 1):
        yield space.snap({name: high * random.random() for name, high in highest.items()})


def counted_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def counted_macs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> float:
    # The counter of torch 2.14 does not know fused attention, encoder and recurrent layers, only what they are made of.
    # Nor what runs with gradients on inside of a pass without: hence the copy that needs none.
    model = copy.deepcopy(model).requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            with (
                sdpa_kernel(SDPBackend.MATH),
                torch.backends.mkldnn.flags(enabled=False),  # type: ignore[no-untyped-call]
                FlopCounterMode(display=False) as counter,
            ):
                model(*args, **(kwargs or {}))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() / 2


def assert_everything_is_explained(space: PruningSpace, model: nn.Module) -> None:
    """Every index of every axis of every parameter and buffer is in one group, or protected with a reason."""
    found: dict[tuple[str, int], int] = {}
    for group in space.groups:
        for each in group.slices:
            assert each.indices.shape[0] == group.size
            key = (each.tensor, each.axis)
            found[key] = found.get(key, 0) + len(np.unique(each.indices))
    for record in space.protected:
        assert record.reason
        key = (record.tensor, record.axis)
        found[key] = found.get(key, 0) + record.count
    tensors = [*model.named_parameters(), *model.named_buffers()]
    expected = {(name, axis): length for name, tensor in tensors for axis, length in enumerate(tensor.shape)}
    assert found == expected


def assert_removed_equals_masked(
    space: PruningSpace, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> None:
    for c in candidates(space, 3):
        assert space.verify(c) <= 1e-9
        small = space.prune(c).eval()
        assert type(small) is type(model)
        assert counted_parameters(small) == space.parameters(c)
        assert counted_macs(small, args, kwargs) == space.macs(c)
