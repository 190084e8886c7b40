"""How far a smaller network is from answering, inside and out, as the dense one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_softprune.plan import Plan

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Hook = Callable[[nn.Module, tuple[Any, ...]], None]


class Imitation:
    """Compares a smaller network with the dense one, batch by batch.

    Args:
        small: The smaller network.
        dense: The dense one, in eval mode; it is run without gradients.
        kept: Path of a layer -> axis of its input, and the indices of the dense network's input that are kept along
            it: inputs of these layers are compared too.
    """

    def __init__(self, small: nn.Module, dense: nn.Module, kept: Mapping[str, tuple[int, Tensor]]) -> None:
        self._small, self._dense, self._kept = small, dense, kept
        self._read: dict[nn.Module, list[tuple[str, Tensor]]] = {small: [], dense: []}
        for model, path in ((model, path) for model in self._read for path in kept):
            model.get_submodule(path).register_forward_pre_hook(self._hook(model, path))

    def _hook(self, model: nn.Module, path: str) -> Hook:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._read[model].append((path, args[0]))

        return note

    def error(self, batch: Sequence[Any]) -> Tensor:
        """Return a scalar: squared differences over the dense network's mean squares, summed over what is compared."""
        for read in self._read.values():
            read.clear()
        with torch.no_grad():
            expected = _floating(self._dense(*batch))
        pairs = list(zip(_floating(self._small(*batch)), expected, strict=True))
        for (path, found), (_, whole) in zip(*self._read.values(), strict=True):
            axis, kept = self._kept[path]
            pairs.append((found, whole.index_select(axis, kept)))
        return torch.stack([_difference(found, right) for found, right in pairs]).sum()


def inputs_that_are_cut(plan: Plan, small: nn.Module, device: torch.device) -> dict[str, tuple[int, Tensor]]:
    """Return the linear and convolutional layers that read less than in the dense network, as `Imitation` takes them.

    Layers of several groups are left out: what they read depends on the group.
    """
    found = {}
    for path, layer in small.named_modules():
        if isinstance(layer, nn.Linear):
            along, axis = 1, -1
        elif isinstance(layer, CONVOLUTIONS) and layer.groups == 1:
            along, axis = int(not layer.transposed), -1 - len(layer.kernel_size)
        else:
            continue
        cut = plan.tensors.get(f"{path}.weight" if path else "weight")
        if cut is not None and along in cut.kept:
            found[path] = (axis, torch.tensor(cut.kept[along], device=device))
    return found


def _floating(outputs: Any) -> list[Tensor]:
    found = [each for each in pytree.tree_leaves(outputs) if isinstance(each, Tensor) and each.is_floating_point()]
    if not found:
        raise ValueError("Expected the networks to return floating-point tensors, but they return none.")
    return found


def _difference(found: Tensor, right: Tensor) -> Tensor:
    """Return 0 for what is equal, 1 for zeros."""
    scale = right.square().mean().clamp_min(torch.finfo(right.dtype).tiny)
    return (found - right).square().mean() / scale
