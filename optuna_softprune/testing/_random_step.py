"""One step of a random network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

SIDE = 4
IN_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One operation; any numbers are legal, each is taken modulo what is there to choose from.

    Attributes:
        kind: A key of `STEPS`.
        source: Which of the values made so far it reads.
        other: Which of them it combines that with, if it combines.
        width: The width of what it makes, if it can choose.
        option: The variant.
    """

    kind: str
    source: int
    other: int
    width: int
    option: int


class StepModule(nn.Module):
    """Makes an image of `out` channels of images of `channels` (and `other`) channels; the side stays."""

    out: int

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError
