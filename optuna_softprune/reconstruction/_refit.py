"""The refit of one contraction, in closed form.

| symbol | meaning | shape |
| --- | --- | --- |
| P, R | inputs that stay, that are removed | (k,), (r,) |
| S, H | second moments of the inputs, and damped ones (`Moments`) | (g, d, d) |
| m | means of the inputs | (g, d) |
| W | the dense weights | (g, rows, d) |
| Z | inputs that are removed, as combinations of those that stay: x_R = Z^T x_P | (g, k, r) |
| W' | the refitted weights | (g, rows, k) |

    Z = H_PP^-1 S_PR = -A_PR A_RR^-1    W' = W_P + W_R Z^T    b' = b + sum over taps of W_R (m_R - Z^T m_P)

with A = H^-1, of which the smaller system is solved.

W' has the least squared error of the outputs on the calibration data, with the ridge on how far weights move from the
dense ones: so it is never worse than W_P. The mean is for layers with a bias that all outputs see alike; S is about
the mean there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from optuna_softprune.graph import kept_indices
from optuna_softprune.reconstruction._sliced import sliced

if TYPE_CHECKING:
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
        inverse: A.
        mean: m.
    """

    network: Network
    contraction: Contraction
    units: Units
    damped: Tensor
    inverse: Tensor
    mean: Tensor

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
            if len(stay) <= len(go):
                rows = self.damped.index_select(1, stay)
                factor = torch.linalg.cholesky(rows.index_select(2, stay))
                z = torch.cholesky_solve(rows.index_select(2, go), factor)
            else:
                rows = self.inverse.index_select(1, go)
                factor = torch.linalg.cholesky(rows.index_select(2, go))
                z = -torch.cholesky_solve(rows.index_select(2, stay), factor).mT
            missing = self.mean[:, None, go] - self.mean[:, None, stay] @ z
            found = torch.cat([z, missing], 1).to(device, dtype)
            if shared is not None:
                shared.put(key, found)
        return found
