"""Parameters and multiply-accumulates as exact integer arithmetic over the widths that are kept.

| symbol | meaning | shape |
| --- | --- | --- |
| k | units kept of each group | (..., G) |
| F | lengths of axes: fixed indices, then indices per unit of each group | (A, 1 + G) |
| l = F [1, k] | lengths of all axes that shrink | (..., A) |

The units of a group touch the same axes equally often, so every length is linear in k, and a count is a constant
plus a sum of monomials: a coefficient times a product of lengths.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.graph import FIXED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna_softprune.graph import Network, Units

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number that depends on the units kept.

    Attributes:
        constant: What does not depend on them.
        lengths: F of the module's table.
        monomials: (coefficient, rows of F) of each product of lengths.
    """

    constant: int
    lengths: IntArray
    monomials: tuple[tuple[int, tuple[int, ...]], ...]

    def __call__(self, kept: IntArray) -> IntArray:
        """Return the count (...) for units kept (..., G); exact for integers."""
        lengths = self.lengths[:, 0] + kept @ self.lengths[:, 1:].T
        total = np.full(kept.shape[:-1], self.constant, kept.dtype)
        for coefficient, rows in self.monomials:
            product = lengths[..., rows[0]]
            for row in rows[1:]:
                product = product * lengths[..., row]
            total = total + coefficient * product
        return total

    def gradient(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivatives (G,) of the count by the units kept (G,), taken as real numbers."""
        lengths = self.lengths[:, 0] + kept @ self.lengths[:, 1:].T
        slope = np.zeros(len(kept))
        for coefficient, rows in self.monomials:
            for i, row in enumerate(rows):  # product rule
                others = np.prod([lengths[other] for other in rows[:i] + rows[i + 1 :]])
                slope = slope + coefficient * others * self.lengths[row, 1:]
        return slope


def parameter_count(network: Network, parameters: Iterable[str]) -> Count:
    """Count the elements of the named parameters; buffers are no parameters."""
    return _count(
        network,
        [
            [(length, network.tensors.get((name, axis))) for axis, length in enumerate(network.shapes[name])]
            for name in parameters
        ],
        0,
    )


def mac_count(network: Network, nodes: Iterable[Any] | None = None) -> Count:
    """Count the multiply-accumulates of one forward pass on the example inputs, of some operations or of all.

    Convolutions, linear layers and matrix products, as `torch.utils.flop_counter` counts them (it counts two
    FLOPs each); a bias and element by element operations are free.
    """
    chosen = [*network.macs, *network.constant_macs] if nodes is None else list(nodes)
    units = {(node, axis): found for node, axes in network.nodes.items() for axis, found in axes}
    products = [
        [(int(factor.meta["val"].shape[axis]), units.get((factor, axis))) for factor, axis in axes]
        for node in chosen
        for axes in network.macs.get(node, ())
    ]
    return _count(network, products, sum(network.constant_macs.get(node, 0) for node in chosen))


def _count(network: Network, products: Iterable[Sequence[tuple[int, Units | None]]], constant: int) -> Count:
    rows: dict[tuple[int, ...], int] = {}
    monomials: Counter[tuple[int, ...]] = Counter()
    for axes in products:
        coefficient, factors = 1, []
        for length, units in axes:
            if units is None:
                coefficient *= length
            else:
                factors.append(rows.setdefault(_form(network, units), len(rows)))
        if factors:
            monomials[tuple(sorted(factors))] += coefficient
        else:
            constant += coefficient
    lengths = np.array(list(rows), np.int64).reshape(len(rows), 1 + len(network.groups))
    return Count(constant=constant, lengths=lengths, monomials=tuple((n, factors) for factors, n in monomials.items()))


def _form(network: Network, units: Units) -> tuple[int, ...]:
    """Return the row of F for an axis: its fixed indices, and its indices per unit of each group."""
    counts = [int((units == FIXED).sum())]
    for group in network.groups:
        inside = int(((units >= group.first_unit) & (units < group.first_unit + group.size)).sum())
        counts.append(inside // group.size)
    return tuple(counts)
