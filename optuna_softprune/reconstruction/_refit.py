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
    from optuna_softprune.reconstruction._weights import Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """What one contraction needs to be refitted for any candidate.

    Attributes:
        network: The groups.
        contraction: The operation.
        units: Units of its d inputs, the same in each of its groups.
        damped: H, in float64 on the CPU.
        mean: m where the bias is refitted too, else None.
    """

    network: Network
    contraction: Contraction
    units: Units
    damped: Tensor
    mean: Tensor | None

    def weight(self, dense: Tensor, kept: Kept, known: Known) -> Tensor:
        """Return the refitted weight, sliced along its outputs."""
        name, axis = self.contraction.weight, self.contraction.axis
        stays = kept_indices(self.units, kept)
        if stays.all():
            return sliced(self.network, name, dense, kept)
        small = sliced(self.network, name, dense, kept)
        rows = self.contraction.matrices(sliced(self.network, name, dense, kept, (1 - axis,)))
        gone = rows[:, :, torch.from_numpy(~stays).to(rows.device)]
        solution = self._solution(stays, known).to(rows.device)
        moved = _product(gone, solution.mT)
        return small + self.contraction.tensor(moved, small.shape)

    def bias(self, dense: Tensor, weight: Tensor, kept: Kept, known: Known) -> Tensor:
        """Return the refitted bias, sliced, of the dense bias and weight."""
        contraction = self.contraction
        assert contraction.bias is not None
        assert self.mean is not None
        small, stays = sliced(self.network, contraction.bias, dense, kept), kept_indices(self.units, kept)
        if stays.all():
            return small
        rows = contraction.matrices(sliced(self.network, contraction.weight, weight, kept, (1 - contraction.axis,)))
        kept_mean, gone_mean = self.mean[:, stays], self.mean[:, ~stays]
        missing = gone_mean - (self._solution(stays, known).double().cpu().mT @ kept_mean[:, :, None])[:, :, 0]
        moved = _product(rows[:, :, torch.from_numpy(~stays).to(rows.device)], missing[:, :, None].to(rows.device))
        return small + moved.reshape(len(small), -1).sum(1)

    def _solution(self, stays: Kept, known: Known) -> Tensor:
        """Return Z for the inputs that stay."""
        key = (self.contraction.weight, np.packbits(stays).tobytes())
        found = known.get(key)
        if found is None:
            stay, go = (torch.from_numpy(np.flatnonzero(each)) for each in (stays, ~stays))
            rows = self.damped[:, stay]
            found = torch.cholesky_solve(rows[:, :, go], torch.linalg.cholesky(rows[:, :, stay]))
            known.put(key, found)
        return found


def _product(weight: Tensor, solution: Tensor) -> Tensor:
    """Return the product of weights and a solution, in float32 at least, in the weights' precision."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(dtype) @ solution.to(dtype)).to(weight.dtype)
