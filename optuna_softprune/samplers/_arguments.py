"""What the samplers check of their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optuna_softprune._errors import kind_of
from optuna_softprune.coefficients import LatticeConstraint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optuna_softprune.storage import Point


def check_constraint(constraint: object) -> None:
    """Raise a TypeError unless `constraint` is one."""
    if not isinstance(constraint, LatticeConstraint):
        raise TypeError(
            f"Expected `constraint` to be a `LatticeConstraint`, but got {kind_of(constraint)}: for instance "
            "`SparsityConstraint(space, target=0.5)`."
        )


def check_integer(name: str, value: object, least: int) -> None:
    """Raise unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected `{name}` to be an integer of at least {least}, but got {value!r}.")


def check_fraction(name: str, value: object, meaning: str) -> None:
    """Raise unless `value` is in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"Expected `{name}` to be in (0, 1], but got {value!r}: it is {meaning}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of the choices."""
    if value not in choices:
        *first, last = [f'"{each}"' for each in choices]
        raise ValueError(f"Expected `{name}` to be {', '.join(first)} or {last}, but got {value!r}.")


def units_of(constraint: LatticeConstraint, c: NDArray[np.float64]) -> Point:
    """Return the units removed of each group at the lattice point nearest to coefficients (G,)."""
    return whole_units(constraint.snap(c), np.array(constraint.sizes))


def whole_units(c: NDArray[np.float64], sizes: NDArray[np.int64]) -> Point:
    """Return the units removed of each group at a lattice point (G,)."""
    removed: list[int] = np.rint(c * sizes).astype(int).tolist()
    return tuple(removed)
