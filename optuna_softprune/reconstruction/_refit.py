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

W' has the least squared error of the outputs on the calibration data, with the ridge on how far weights move from the
dense ones: so it is never worse than W_P. The mean is for layers with a bias that all outputs see alike; S is about
the mean there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """What one contraction needs to be refitted for any candidate.

    Attributes:
        network: The groups.
        contraction: The operation.
        units: Units of its d inputs, the same in each of its groups.
        damped: H, in float64 on the CPU.
        mean: m.
        order: Shape (d,): inputs, the last to go first.
        factor: L in that order.
    """

    network: Network
    contraction: Contraction
    units: Units
    damped: Tensor
    mean: Tensor
    order: Tensor
    factor: Tensor

    def ordered(self, ranks: NDArray[np.int64]) -> Refit:
        """Return it for candidates that take units in an order; `ranks` (units,) are 0 for the last to go."""
        order = torch.from_numpy(np.argsort(np.where(self.units == FIXED, -1, ranks[self.units]), kind="stable"))
        factor = torch.linalg.cholesky(self.damped.index_select(1, order).index_select(2, order))
        return replace(self, order=order, factor=factor)

    def of(
        self, weight: Tensor, bias: Tensor | None, kept: Kept, shared: Shared | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the refitted weight and bias, sliced along their outputs.

        Args:
            weight: The dense weight.
            bias: The dense bias; None if it is not refitted.
            kept: Shape (units,): whether each unit stays.
            shared: Solutions that candidates share.
        """
        contraction = self.contraction
        outputs = 1 - contraction.axis
        rows = sliced(self.network, contraction.weight, weight, kept, (outputs,))
        small = sliced(self.network, contraction.weight, rows, kept, (contraction.axis,))
        small_bias = None if bias is None else sliced(self.network, contraction.bias or "", bias, kept)
        stays = kept_indices(self.units, kept)
        if stays.all():
            return small, small_bias
        dtype = torch.promote_types(weight.dtype, torch.float32)
        solution = self._solution(stays, dtype, weight.device, shared)
        go = torch.from_numpy(np.flatnonzero(~stays)).to(weight.device)
        with torch.autocast(weight.device.type, enabled=False):  # whatever the metric computes in
            moved = (contraction.matrices(rows).index_select(2, go).to(dtype) @ solution.mT).to(weight.dtype)
        small = small + contraction.tensor(moved[:, :, :-1], small.shape)
        if small_bias is not None:
            small_bias = small_bias + moved[:, :, -1].reshape(len(small_bias), -1).sum(1)
        return small, small_bias

    def _solution(self, stays: Kept, dtype: torch.dtype, device: torch.device, shared: Shared | None) -> Tensor:
        """Return Z for the inputs that stay, and below it m_R - Z^T m_P: (g, k + 1, r)."""
        key = (self.contraction.weight, np.packbits(stays).tobytes())
        found = None if shared is None else shared.get(key)
        if found is None:
            stay, go = (torch.from_numpy(np.flatnonzero(each)) for each in (stays, ~stays))
            count = len(stay)
            known, last = self.order[:count], self.order[count:]
            if stays[known.numpy()].all():
                corner, below = self.factor[:, :count, :count], self.factor[:, count:, :count]
                z = torch.linalg.solve_triangular(corner, below, upper=False, left=False).mT
                z = z.index_select(1, known.argsort()).index_select(2, last.argsort())
            else:
                rows = self.damped.index_select(1, stay)
                z = torch.cholesky_solve(rows.index_select(2, go), torch.linalg.cholesky(rows.index_select(2, stay)))
            missing = self.mean[:, None, go] - self.mean[:, None, stay] @ z
            found = torch.cat([z, missing], 1).to(device, dtype)
            if shared is not None:
                shared.put(key, found)
        return found
