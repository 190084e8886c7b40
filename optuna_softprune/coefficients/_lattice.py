"""The lattice: the coefficients that groups of whole units can really have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from optuna_softprune._errors import shorten

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Coefficients = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Units that can be removed from each of G groups.

    Attributes:
        names: Name of each group.
        sizes: Shape (G,): units of each group.
        levels: For each group the numbers of units that can be removed, ascending from 0.
        highest: Shape (G,): the largest coefficient of each group.
        ladder: Shape (G, L): the levels, with the last repeated to the same length.
    """

    names: tuple[str, ...]
    sizes: IntArray
    levels: tuple[IntArray, ...]
    highest: FloatArray = field(init=False, compare=False)
    ladder: IntArray = field(init=False, compare=False, repr=False)
    _nearest: IntArray = field(init=False, compare=False, repr=False)
    _first: IntArray = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        most = np.array([levels[-1] for levels in self.levels], np.int64)
        object.__setattr__(self, "highest", most / self.sizes)
        longest = max((len(levels) for levels in self.levels), default=0)
        ladder = [np.pad(levels, (0, longest - len(levels)), mode="edge") for levels in self.levels]
        object.__setattr__(self, "ladder", np.array(ladder, np.int64).reshape(len(most), longest))
        # The nearest level of each half unit: between two of them it is that of the lower, levels being whole units.
        halves = [np.arange(2 * size + 1) for size in self.sizes.tolist()]
        nearest = [
            levels[np.searchsorted(levels[1:] + levels[:-1], half, side="right")]
            for levels, half in zip(self.levels, halves, strict=True)
        ]
        object.__setattr__(self, "_nearest", np.concatenate([*nearest, np.zeros(0, np.int64)]))
        object.__setattr__(self, "_first", np.cumsum([0, *map(len, nearest)])[:-1])

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, int],
        *,
        round_to: int,
        min_units: int,
        least: Mapping[str, int] | None = None,
        multiples: Mapping[str, int] | None = None,
    ) -> Lattice:
        """Return the lattice in which a group keeps all its units, or a multiple of `round_to`, but `min_units`.

        Where `least` (group name -> units) says more, a group keeps that many; where `multiples` names another number,
        it keeps a multiple of that too.
        """
        least, multiples = least or {}, multiples or {}
        return cls(
            names=tuple(sizes),
            sizes=np.array(list(sizes.values()), np.int64),
            levels=tuple(
                removable(size, math.lcm(round_to, multiples.get(name, 1)), max(min_units, least.get(name, 1)))
                for name, size in sizes.items()
            ),
        )

    def removed(self, coefficients: FloatArray) -> IntArray:
        """Return the units removed (..., G) at `coefficients` (..., G): the nearest level, halves up."""
        halves = np.clip((2 * (coefficients * self.sizes)).astype(np.int64), 0, 2 * self.sizes)
        removed: IntArray = self._nearest[self._first + halves]
        return removed

    @overload
    def snap(self, c: Coefficients) -> dict[str, float]: ...
    @overload
    def snap(self, c: FloatArray) -> FloatArray: ...
    def snap(self, c: Coefficients | FloatArray) -> dict[str, float] | FloatArray:
        """Return the nearest coefficients of whole units (halves up, towards removing more)."""
        snapped: FloatArray = self.removed(self.array(c)) / self.sizes
        return self.named(snapped) if isinstance(c, Mapping) else snapped

    def named(self, c: FloatArray) -> dict[str, float]:
        """Return an array (G,) of coefficients as a mapping by name."""
        return dict(zip(self.names, c.tolist(), strict=True))

    def array(self, c: Coefficients | FloatArray) -> FloatArray:
        """Return coefficients, a mapping or an array (..., G), as a checked array (..., G).

        Raises:
            TypeError: If they are no floats.
            ValueError: If one is missing, unknown or out of its range.
        """
        if isinstance(c, Mapping):
            unknown = [str(name) for name in c if name not in self.names]
            missing = [name for name in self.names if name not in c]
            if unknown or missing:
                raise ValueError(
                    "Expected one coefficient for each group, but got "
                    + " and ".join(
                        [f"unknown names {shorten(unknown)}"] * bool(unknown)
                        + [f"none for {shorten(missing)}"] * bool(missing)
                    )
                    + ". The names are those of `space.distributions`."
                )
            c = [c[name] for name in self.names]  # type: ignore[assignment]
        try:
            matrix = np.asarray(c, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"Expected coefficients to be floats, but got {c!r}.") from error
        if matrix.ndim == 0 or matrix.shape[-1] != len(self.names):
            raise ValueError(
                f"Expected coefficients of shape (..., {len(self.names)}), one for each group, "
                f"but got shape {matrix.shape}."
            )
        wrong = ~((matrix >= 0) & (matrix <= self.highest))
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            group = at[-1]
            raise ValueError(
                f"Expected the coefficient of `{self.names[group]}` to be in [0, {self.highest[group]:.6g}], but got "
                f"{matrix[at]:.6g}: of its {self.sizes[group]} units at most {self.levels[group][-1]} can be removed."
            )
        return matrix


def removable(size: int, round_to: int, min_units: int) -> IntArray:
    """Return how many of `size` units can be removed, ascending from 0."""
    kept = np.arange(size, 0, -1)
    allowed = (kept == size) | ((kept % round_to == 0) & (kept >= min_units))
    removed: IntArray = size - kept[allowed]
    return removed
