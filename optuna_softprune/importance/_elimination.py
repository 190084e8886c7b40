"""Backward elimination with refitting: structured Optimal Brain Surgeon, with all readers of a group together.

| symbol | meaning | shape |
| --- | --- | --- |
| H | damped second moments of a reader's inputs | (d, d) |
| W | its weights, refitted for the inputs that are left | (rows, d) |
| A | inverse of H over the inputs that are left | (d, d) |
| M | W^T W | (d, d) |
| I | inputs that belong to a unit | (m,) |

Removing a unit costs tr(M_II A_II^-1), what is left refitted (Hassibi and Stork, "Second order derivatives for network
pruning", 1992, equation 5, for blocks: Kurtic et al., "ZipLM", 2023, equation 4). With a = A_:I A_II^-1 then

    A <- A - a A_I:         M <- M - a M_I: - M_:I a^T + a M_II a^T

Both are kept as they were some units ago, with the changes since then as two thin factors: then most of the work is
products of large matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
# Inputs removed between two updates of the large matrices.
PENDING = 64
# Part of the inputs that may be gone before matrices are made smaller.
GONE = 0.2
# Inputs of a unit up to which products of its blocks are sums of element by element ones.
FEW = 4


class Reader:
    """One linear map that reads a group.

    Args:
        damped: H.
        weight: W before anything is removed.
        inputs: Shape (units, m): I of each unit. Inputs that belong to none stay.
    """

    def __init__(self, damped: Tensor, weight: Tensor, inputs: IntArray) -> None:
        self._inverse: FloatArray = torch.cholesky_inverse(torch.linalg.cholesky(damped)).numpy()
        weight = weight.double().cpu()
        self._product: FloatArray = (weight.mT @ weight).numpy()
        self._inputs = inputs
        self._stays, self._gone = np.ones(len(self._inverse), bool), np.zeros(len(inputs), bool)
        self._begin()
        rows, columns = inputs[:, :, None], inputs[:, None, :]
        # A_II and M_II of each unit, as they are now.
        self._own_inverse = self._inverse[rows, columns]
        self._own_product = self._product[rows, columns]

    def _begin(self) -> None:
        """Have no changes pending: A = A - a q^T, M = M - a n^T - n a^T with thin a, q, n."""
        shape = (len(self._inverse), PENDING + self._inputs.shape[1])
        self._a, self._q, self._n = np.empty(shape), np.empty(shape), np.empty(shape)
        self._pending = 0

    def costs(self) -> FloatArray:
        """Return what removing each unit (units,) costs; of those that are gone anything."""
        if self._inputs.shape[1] == 1:
            costs: FloatArray = self._own_product[:, 0, 0] / self._own_inverse[:, 0, 0]
            return costs
        traces: FloatArray = np.einsum("uii->u", np.linalg.solve(self._own_inverse, self._own_product))
        return traces

    def remove(self, unit: int) -> None:
        """Remove a unit and refit what is left."""
        inputs, done = self._inputs[unit], slice(self._pending)
        a, q, n = self._a[:, done], self._q[:, done], self._n[:, done]
        inverse = (self._inverse[inputs] - a[inputs] @ q.T).T  # A_:I; A is symmetric
        product = (self._product[inputs] - a[inputs] @ n.T - n[inputs] @ a.T).T
        new_a = np.linalg.solve(inverse[inputs].T, inverse.T).T
        new_n = product - new_a @ product[inputs] / 2
        new = slice(self._pending, self._pending + len(inputs))
        self._a[:, new], self._q[:, new], self._n[:, new] = new_a, inverse, new_n
        self._pending = new.stop
        of_units = new_a[self._inputs], inverse[self._inputs], new_n[self._inputs]
        self._own_inverse -= _products(of_units[0], of_units[1])
        change = _products(of_units[0], of_units[2])
        self._own_product -= change + change.swapaxes(1, 2)
        self._gone[unit] = True  # nothing is left of it to remove
        self._own_inverse[self._gone], self._own_product[self._gone] = np.eye(len(inputs)), 0.0
        self._stays[inputs] = False
        if self._pending >= PENDING:
            self._update()

    def _update(self) -> None:
        """Apply what is pending, and leave out inputs that are gone once they are many."""
        done = slice(self._pending)
        a, q, n = self._a[:, done], self._q[:, done], self._n[:, done]
        stays = self._stays
        if stays.mean() < 1 - GONE:
            place = np.cumsum(stays) - 1
            self._inputs = np.where(stays[self._inputs], place[self._inputs], 0)
            a, q, n = a[stays], q[stays], n[stays]
            self._inverse, self._product = (each[np.ix_(stays, stays)] for each in (self._inverse, self._product))
            self._stays = np.ones(len(self._inverse), bool)
        self._inverse -= a @ q.T
        change = a @ n.T
        self._product -= change
        self._product -= change.T
        self._begin()


def _products(some: FloatArray, others: FloatArray) -> FloatArray:
    """Return x y^T of each unit, of x and y (units, m, m)."""
    if some.shape[1] <= FEW:
        products: FloatArray = (some[:, :, None, :] * others[:, None, :, :]).sum(-1)
        return products
    return some @ others.swapaxes(1, 2)


def elimination(readers: Sequence[Reader], constant: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the units in the order of their removal, and what each has cost.

    Again and again the unit goes whose removal costs least; of equal ones the first.

    Args:
        readers: What reads the group.
        constant: Shape (units,): costs that do not depend on what else is gone.
    """
    order, paid = np.empty(len(constant), np.int64), np.empty(len(constant))
    gone = np.zeros(len(constant), bool)
    for step in range(len(constant)):
        costs = constant + sum(reader.costs() for reader in readers)
        costs[gone] = np.inf
        unit = int(costs.argmin())
        order[step], paid[step] = unit, max(costs[unit], 0.0)
        gone[unit] = True
        for reader in readers:
            reader.remove(unit)
    return order, paid
