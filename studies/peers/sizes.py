"""Networks of a wanted size from tools that take a ratio of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

BISECTIONS = 15


def parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def runs(model: nn.Module, *inputs: Tensor) -> bool:
    """Whether a network computes anything: Torch-Pruning leaves the sizes in `nn.Unflatten` as they are."""
    try:
        model(*inputs)
    except RuntimeError:
        return False
    return True


def bisected(
    pruned_at: Callable[[float], nn.Module],
    works: Callable[[nn.Module], bool],
    dense: int,
    target: float,
    *,
    size: Callable[[nn.Module], int] = parameters,
    bisections: int = BISECTIONS,
) -> nn.Module:
    """Return the network whose sparsity is nearest to the target, of bisected ratios of channels.

    Args:
        pruned_at: Ratio of channels -> network.
        works: Whether a network computes anything.
        dense: The size of the dense network.
        target: The share of it to remove.
        size: What is counted of a network.
        bisections: How many ratios are tried.

    Raises:
        RuntimeError: None of the networks runs.
    """
    best, (low, high) = None, (0.0, 1.0)
    for _ in range(bisections):
        ratio = (low + high) / 2
        small = pruned_at(ratio)
        sparsity = 1 - size(small) / dense
        if works(small) and (best is None or abs(sparsity - target) < abs(best[0] - target)):
            best = sparsity, small
        low, high = (ratio, high) if sparsity < target else (low, ratio)
    if best is None:
        raise RuntimeError("none of the networks runs")
    return best[1].eval()
