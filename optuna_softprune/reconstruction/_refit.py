"""The refit of one contraction, in closed form.

| symbol | meaning | shape |
| --- | --- | --- |
| P, R | inputs that stay, that are removed | (k,), (r,) |
| S, H | second moments of the inputs, and damped ones (`Moments`) | (g, d, d) |
| m | means of the inputs | (g, d) |
| W | the dense weights | (g, rows, d) |
| Z | inputs that are removed, as combinations of those that stay: x_R = Z^T x_P | (g, k, r) |
| W' | the refitted weights | (g, rows, k) |

    Z = H_PP^-1 S_PR    W' = W_P + W_R Z^T    b' = b + sum over taps of W_R (m_R - Z^T m_P)

Of candidates that take units in one order, P are the first k inputs of that order: with H = L L^T in it, of all levels
Z^T = L_RP L_PP^-1, a triangular system.

W' has the least squared error of what is read at each position, with the ridge on how far weights move from the dense
ones: so for a linear layer, and for each tap of a kernel, the outputs on the calibration data are never worse than with
W_P. Errors of several taps add up in a sum that this does not see. The mean is for layers with a bias that all outputs
see alike; S is about the mean there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from optuna_softprune.graph import FIXED, kept_indices
from optuna_softprune.reconstruction._sliced import sliced

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from optuna_softprune.calibration import Contraction
    from optuna_softprune.graph import Kept, Network, Units
    from optuna_softprune.reconstruction._weights import Shared


class Order(NamedTuple):
    """What is the same of all candidates that take units in one order.

    Attributes:
        inputs: Shape (d,): inputs, the last to go first.
        factor: L in that order, (g, d, d), on the CPU in the precision that refitted weights are computed in: what a
            triangular solve loses to rounding is a part of what outputs lose anyway.
        rows: The dense weight in that order, (outputs, m, d) as of `Contraction.rows`.
    """

    inputs: Tensor
    factor: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """What one contraction needs to be refitted for any candidate.

    Attributes:
        network: The groups.
        contraction: The operation.
        weight: The dense weight.
        bias: The dense bias; None if it is not refitted.
        units: Units of its d inputs, the same in each of its groups.
        damped: H, in float64 on the CPU.
        mean: m.
        order: In which units go, if that is known.
    """

    network: Network
    contraction: Contraction
    weight: Tensor
    bias: Tensor | None
    units: Units
    damped: Tensor
    mean: Tensor
    order: Order | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision that refitted weights are computed in."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def ordered(self, ranks: NDArray[np.int64]) -> Refit:
        """Return it for candidates that take units in an order; `ranks` (units,) are 0 for the last to go."""
        inputs = torch.from_numpy(np.argsort(np.where(self.units == FIXED, -1, ranks[self.units]), kind="stable"))
        factor = torch.linalg.cholesky(self.damped.index_select(1, inputs).index_select(2, inputs)).to(self.dtype)
        rows = self.contraction.rows(self.weight).index_select(2, inputs.to(self.weight.device))
        return replace(self, order=Order(inputs, factor, rows))

    def of(self, kept: Kept, shared: Shared | None) -> tuple[Tensor, Tensor | None]:
        """Return the refitted weight and bias, sliced along their outputs.

        Args:
            kept: Shape (units,): whether each unit stays.
            shared: Solutions that candidates share.
        """
        contraction, weight = self.contraction, self.weight
        outputs = 1 - contraction.axis
        bias = None if self.bias is None else sliced(self.network, contraction.bias or "", self.bias, kept)
        stays = kept_indices(self.units, kept)
        if stays.all():
            return sliced(self.network, contraction.weight, weight, kept, (outputs,)), bias
        count = int(stays.sum())
        if self.order is not None and stays[self.order.inputs[:count].numpy()].all():
            inputs, rows = self.order.inputs, self.order.rows
        else:
            inputs = torch.from_numpy(np.concatenate([np.flatnonzero(stays), np.flatnonzero(~stays)]))
            rows = contraction.rows(weight).index_select(2, inputs.to(weight.device))
        units = self.network.tensors.get((contraction.weight, outputs))
        if units is not None and not (stay := kept_indices(units, kept)).all():
            rows = rows.index_select(0, torch.from_numpy(np.flatnonzero(stay)).to(weight.device))
        shape = [count if axis == contraction.axis else n for axis, n in enumerate(weight.shape)]
        shape[outputs] = len(rows)
        if contraction.axis == 0:
            shape[0] *= contraction.groups
        matrices = contraction.matrices(rows).to(self.dtype)
        of_kept, of_gone = matrices[:, :, :count], matrices[:, :, count:]
        with torch.autocast(weight.device.type, enabled=False):  # whatever the metric computes in
            solution = self._solution(stays, inputs, shared)
            refitted = torch.baddbmm(of_kept, of_gone, solution[:, :count].mT)
            if bias is not None:
                bias = bias + (of_gone @ solution[:, count:].mT).reshape(len(bias), -1).sum(1).to(bias.dtype)
        ascending = inputs[:count].argsort().to(weight.device)
        return contraction.tensor(refitted.index_select(2, ascending).to(weight.dtype), shape), bias

    def _solution(self, stays: Kept, inputs: Tensor, shared: Shared | None) -> Tensor:
        """Return Z for inputs that stay and then those that go, and below it m_R - Z^T m_P: (g, k + 1, r)."""
        key = (self.contraction.weight, np.packbits(stays).tobytes())
        found = None if shared is None else shared.get(key)
        if found is None:
            count = int(stays.sum())
            if self.order is not None and inputs is self.order.inputs:
                corner, below = self.order.factor[:, :count, :count], self.order.factor[:, count:, :count]
                z = torch.linalg.solve_triangular(corner, below, upper=False, left=False).mT
            else:
                rows = self.damped.index_select(1, inputs[:count])
                of_stay, of_go = (rows.index_select(2, each) for each in (inputs[:count], inputs[count:]))
                z = torch.cholesky_solve(of_go, torch.linalg.cholesky(of_stay)).to(self.dtype)
            mean = self.mean.index_select(1, inputs)[:, None].to(self.dtype)
            missing = mean[:, :, count:] - mean[:, :, :count] @ z
            found = torch.cat([z, missing], 1).to(self.weight.device)
            if shared is not None:
                shared.put(key, found)
        return found
