"""Parameters and multiply-accumulates as exact integer arithmetic over the widths that are kept.

| symbol | meaning | shape |
| --- | --- | --- |
| k | units kept of each group | (..., G) |
| F | lengths of axes: fixed indices, then indices per unit of each group | (A, 1 + G) |
| l = F [1, k] | lengths of all axes that shrink | (..., A) |

The units of a group touch the same axes equally often, so every length is linear in k, and a count is a constant
plus a sum of monomials: a coefficient times a product of lengths. Nothing in it is negative, so no part of a sum is
larger than the dense count: int64 is exact as long as that fits in it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.graph import FIXED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna_softprune.graph import Network, Units

IntArray = NDArray[np.int64]

# Values of products of lengths that are held at once: 8 MB.
CHUNK = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Degree:
    """The M monomials of one degree D, and the P pairs of one of them and a group that it depends on.

    Attributes:
        coefficients: Shape (M,).
        rows: Shape (M, D): rows of F.
        readers: Shape (P,): the monomial of each pair.
        groups: Shape (P,): the group of each pair, ascending.
        present: The groups among them, ascending.
        first: The place of the first pair of each of these.
        factors: Shape (D, P): rows of F, of that monomial.
        slopes: Shape (D, P): indices per unit of that group in each of these lengths.
    """

    coefficients: IntArray
    rows: IntArray
    readers: IntArray
    groups: IntArray
    present: IntArray
    first: IntArray
    factors: IntArray
    slopes: IntArray

    @classmethod
    def of(cls, monomials: Sequence[tuple[int, tuple[int, ...]]], slopes: IntArray) -> _Degree:
        """Return monomials as arrays; `slopes` (A, G) are the indices per unit of each length."""
        rows = np.array([rows for _, rows in monomials], np.int64)
        groups, readers = (slopes[rows] != 0).any(axis=1).T.nonzero()
        present, first = np.unique(groups, return_index=True)
        return cls(
            coefficients=np.array([coefficient for coefficient, _ in monomials], np.int64),
            rows=rows,
            readers=readers,
            groups=groups,
            present=present,
            first=first,
            factors=rows[readers].T,
            slopes=slopes[rows[readers].T, groups],
        )


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
    _by_degree: tuple[_Degree, ...] = field(init=False, compare=False, repr=False)
    # F is sparse: the w-th group that each length depends on and how often, shapes (W, A); 0 times where it has fewer.
    _read: IntArray = field(init=False, compare=False, repr=False)
    _times: IntArray = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        degrees: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for coefficient, rows in self.monomials:
            degrees.setdefault(len(rows), []).append((coefficient, rows))
        by_degree = tuple(_Degree.of(found, self.lengths[:, 1:]) for found in degrees.values())
        object.__setattr__(self, "_by_degree", by_degree)
        times = self.lengths[:, 1:]
        most = (times != 0).sum(axis=1).max(initial=0)
        read = np.argsort(times == 0, axis=1, kind="stable")[:, :most]
        object.__setattr__(self, "_read", read.T)
        object.__setattr__(self, "_times", np.take_along_axis(times, read, axis=1).T)

    def to_dict(self) -> dict[str, Any]:
        """Return the formula as JSON; of lengths what is not zero."""
        return {
            "constant": self.constant,
            "lengths": [[[int(i), int(row[i])] for i in np.flatnonzero(row)] for row in self.lengths],
            "monomials": [[n, list(rows)] for n, rows in self.monomials],
            "groups": self.lengths.shape[1] - 1,
        }

    @classmethod
    def of_dict(cls, held: dict[str, Any]) -> Count:
        """Return the formula that `to_dict` returned."""
        lengths = np.zeros((len(held["lengths"]), 1 + held["groups"]), np.int64)
        for row, terms in zip(lengths, held["lengths"], strict=True):
            for place, number in terms:
                row[place] = number
        monomials = tuple((n, tuple(rows)) for n, rows in held["monomials"])
        return cls(constant=held["constant"], lengths=lengths, monomials=monomials)

    def touched(self, kept: IntArray) -> IntArray:
        """Return for each group (G,) what would go of the count at `kept` (G,) if all of its units went."""
        without = np.where(np.eye(len(kept), dtype=bool), 0, kept)
        found: IntArray = self(kept) - self(without)
        return found

    def __call__(self, kept: NDArray[Any]) -> NDArray[Any]:
        """Return the count (...) for units kept (..., G); exact for integers."""
        points = kept.reshape(math.prod(kept.shape[:-1]), kept.shape[-1])  # also of no groups
        total = np.empty(len(points), kept.dtype)
        chunk = max(1, CHUNK // max(1, len(self.monomials)))
        for i in range(0, len(points), chunk):
            total[i : i + chunk] = self._of(self._lengths(points[i : i + chunk]))
        return total.reshape(kept.shape[:-1])

    def _lengths(self, kept: NDArray[Any]) -> NDArray[Any]:
        """Return the lengths (..., A) for units kept (..., G)."""
        lengths = np.broadcast_to(self.lengths[:, 0], (*kept.shape[:-1], len(self.lengths)))
        for read, times in zip(self._read, self._times, strict=True):
            lengths = lengths + times * kept[..., read]
        return lengths

    def _of(self, lengths: NDArray[Any]) -> NDArray[Any]:
        """Return the count (N,) for lengths (N, A)."""
        total = np.full(len(lengths), self.constant, lengths.dtype)
        for degree in self._by_degree:
            total += _product(lengths, degree.rows) @ degree.coefficients
        return total

    def tied(self, owner: IntArray) -> Count:
        """Return the count as a formula of fewer widths: `owner` (G,) says which of them each group has."""
        widths = owner.max(initial=-1) + 1
        lengths = np.zeros((len(self.lengths), 1 + widths), np.int64)
        lengths[:, 0] = self.lengths[:, 0]
        np.add.at(lengths.T, owner + 1, self.lengths[:, 1:].T)
        rows, place = np.unique(lengths, axis=0, return_inverse=True)
        monomials: Counter[tuple[int, ...]] = Counter()
        for coefficient, factors in self.monomials:
            monomials[tuple(sorted(place[list(factors)].tolist()))] += coefficient
        return Count(constant=self.constant, lengths=rows, monomials=tuple((n, each) for each, n in monomials.items()))

    def along(self, kept: IntArray, widths: IntArray) -> IntArray:
        """Return the exact counts (N, G, L) when one group alone changes.

        At g all groups keep the units of `kept` (N, G), but group g, which keeps those of row g of `widths` (G, L):
        the count is a polynomial of that width.
        """
        lengths = self._lengths(kept)
        total = np.tile(self._of(lengths)[:, None, None], (*widths.shape,))
        for degree in self._by_degree:
            old_widths = kept[:, degree.groups]
            polynomial = [degree.coefficients[degree.readers]]  # by power of the width: (P,) or (N, P)
            for factor, slope in zip(degree.factors, degree.slopes, strict=True):
                offset = lengths[:, factor] - slope * old_widths  # the length without the group that changes
                raised = [0, *(term * slope for term in polynomial)]
                polynomial = [a + b for a, b in zip([*(term * offset for term in polynomial), 0], raised, strict=True)]
            new, old = widths[degree.present], kept[:, degree.present, None]
            change, new_power, old_power = np.zeros((len(kept), *new.shape), np.int64), new, old
            for term in polynomial[1:]:  # what does not depend on the width stays
                change += np.add.reduceat(term, degree.first, axis=-1)[..., None] * (new_power - old_power)
                new_power, old_power = new_power * new, old_power * old
            total[:, degree.present] += change
        return total

    def gradient(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivatives (G,) of the count by the units kept (G,), taken as real numbers."""
        lengths = self._lengths(kept)
        by_length = np.zeros(len(lengths))
        for degree in self._by_degree:
            for i, row in enumerate(degree.rows.T):  # product rule
                others = _product(lengths, np.delete(degree.rows, i, axis=1))
                by_length += np.bincount(row, degree.coefficients * others, len(lengths))
        slope = np.zeros(len(kept))
        for read, times in zip(self._read, self._times, strict=True):
            slope += np.bincount(read, times * by_length, len(kept))
        return slope


def _product(lengths: NDArray[Any], rows: IntArray) -> NDArray[Any]:
    """Return the products (..., M) of lengths (..., A) over rows (M, D)."""
    if not rows.shape[1]:
        return np.ones((*lengths.shape[:-1], len(rows)), lengths.dtype)
    product = lengths[..., rows[:, 0]]
    for factor in rows.T[1:]:
        product *= lengths[..., factor]
    return product


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
