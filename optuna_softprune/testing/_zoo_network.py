"""A network of the zoo: what it is made of, and the groups that it must give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ZooNetwork:
    """A network and what pruning must find in it.

    Attributes:
        name: Its name in the zoo.
        build: Makes it; weights are drawn from the global generator.
        inputs: Makes its example inputs.
        groups: Group name -> (units, slices). Slices are parted by spaces: `conv` is axis 0 of all that the module
            `conv` holds, `conv:1` axis 1 of its weight, `gamma:0` axis 0 of the parameter or buffer `gamma`.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]] = field(repr=False)
    groups: Mapping[str, tuple[int, str]] = field(repr=False)

    def slices(self, group: str) -> set[tuple[str, int]]:
        """Return the (tensor, axis) that a group must hold."""
        model = self.build()
        modules = dict(model.named_modules())
        tensors = [name for name, held in [*model.named_parameters(), *model.named_buffers()] if held.dim()]
        found = set()
        for item in self.groups[group][1].split():
            name, _, axis = item.partition(":")
            if name not in modules:
                found.add((name, int(axis)))
            elif axis:
                found.add((f"{name}.weight", int(axis)))
            else:
                found |= {(tensor, 0) for tensor in tensors if tensor.rpartition(".")[0] == name}
        return found


def normal(*shape: int) -> Tensor:
    """Return a tensor of normal numbers, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
