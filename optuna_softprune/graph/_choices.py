"""Choices between axes of which only one can shrink, made one after the other, each when all labels have settled.

A tensor from which whole slices are removed stays a box: each of its layers may vary along one axis in the end. Which
one is clear where a unit of another tensor meets it. Where it is not, a choice is open until no label changes any
more, since labels that differ at first are often united elsewhere. What an open choice makes carries negative labels,
which no union and no protection touches.
"""

from __future__ import annotations

import enum
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optuna_softprune.graph._labels import Layer, flat, once

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.fx import Node


class Kind(enum.IntEnum):
    """What is chosen; the first kind is settled before the next."""

    TWIN = 0  # two layers along one axis: one of them
    SUM = 1  # summed over some of the axes: the others are kept, whole slices of what is summed go
    MEET = 2  # element by element with a layer that varies along fewer axes
    BOX = 3  # a tensor must be a box, for no other reason


class Choice(NamedTuple):
    """One open choice.

    Attributes:
        kind: What is chosen.
        key: Which choice it is, the same in every pass.
        options: Layers, each with axes along which it may go on to vary.
    """

    kind: Kind
    key: Hashable
    options: Sequence[tuple[Layer, frozenset[int]]]


class Choices:
    """The choices that are made, and those that are left open."""

    def __init__(self) -> None:
        self.made: dict[Hashable, int] = {}
        self._open: dict[Node, list[Choice]] = {}

    def begin(self, node: Node) -> None:
        """Forget the open choices of a node."""
        self._open[node] = []

    def ask(self, node: Node, choice: Choice) -> int | None:
        """Return which option was chosen, or None if that is open."""
        if choice.key not in self.made:
            self._open[node].append(choice)
        return self.made.get(choice.key)

    def has_made(self, node: Node) -> bool:
        """Whether a choice that a node left open has been made since."""
        return any(choice.key in self.made for choice in self._open[node])

    def make(self, labels: int, protected: NDArray[np.int64]) -> bool:
        """Make the first open choices, none of which has a label in common with another; return whether there are any.

        Args:
            labels: Number of labels.
            protected: Labels that are protected as things stand.
        """
        left = list(itertools.chain(*self._open.values()))
        kind = min((each.kind for each in left), default=None)
        touched, fixed = np.zeros(labels, bool), np.zeros(labels, bool)
        fixed[protected] = True
        for each in left:
            if each.kind is not kind:
                continue
            own = np.unique(np.concatenate([np.unique(once(found.labels).numpy()) for found, _ in each.options]))
            own = own[own > 0]
            if not touched[own].any():
                touched[own] = True
                self.made[each.key] = _best(each, fixed)
        return kind is not None


def _best(choice: Choice, fixed: NDArray[np.bool_]) -> int:
    """Return the option that leaves most units.

    What is protected counts for boxes and twins only: until sums and meetings are settled, much is that will not stay.
    """
    if choice.kind in (Kind.SUM, Kind.MEET):
        fixed = np.zeros_like(fixed)
    left = [_units_left(found, kept, fixed) for found, kept in choice.options]
    if not any(left):
        left = [_units_left(found, kept, np.zeros_like(fixed)) for found, kept in choice.options]
    return int(np.argmax(left))


def _units_left(found: Layer, kept: frozenset[int], fixed: NDArray[np.bool_]) -> int:
    """Return how many units a layer has if it varies along `kept` only."""
    labels = flat(
        found.labels, [a for a in range(found.labels.dim()) if a not in found.axes], [-1] * found.labels.dim()
    )
    order = [*sorted(kept), *(a for a in range(labels.dim()) if a not in kept)]
    rows = labels.permute(order).reshape(int(np.prod([labels.shape[a] for a in kept])), -1).numpy()
    free = rows[~(fixed[np.maximum(rows, 0)] | (rows <= 0)).any(axis=1)]
    return len(np.unique(free[:, 0])) if free.size else 0


def opened(labels: Tensor) -> Tensor:
    """Return open labels in place of `labels`: they vary alike, but nothing is united with them."""
    return (-once(labels).abs()).expand(labels.shape)
