"""Sums over what a contraction reads while the dense network runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from optuna_softprune.calibration._moments import ROWS, Moments

if TYPE_CHECKING:
    from torch import Tensor

    from optuna_softprune.calibration._contraction import Contraction

# Positions that are held until their products are made at once, in the precision of the network, and added in float64:
# with fewer the additions take longer than the multiplications. Narrow layers hold so many numbers, which fit a cache.
POSITIONS, NUMBERS = 1024, 2**19
# Bytes that the moments of one layer may take: 11,585 channels. A network has a few such layers at most.
MOST_BYTES = 2**30


class Sums:
    """Running sums of one contraction.

    What is read is held about a shift near its mean until there is enough of it, then multiplied in the precision of
    the network: what sums lose to rounding is a part of variances, not of squared means. The sums are float64.
    """

    def __init__(self, found: Contraction) -> None:
        self._contraction = found
        self.normalised = False
        self._positions, self._weight, self._count = 0, 0.0, 0
        self._held = self._shift = self._first = self._energy = torch.empty(0)
        self._wide = False
        self._products: tuple[Tensor, ...] = ()

    def add(self, x: Tensor, read: Tensor | None) -> None:
        """Add X (g, d, samples, positions), and how often each position is read (positions,)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        groups, width, samples, positions = x.shape
        if not self._positions:
            self._shift = x.mean((2, 3), keepdim=True)
            self._first, self._energy = x.new_zeros(2, groups, width, dtype=torch.float64)
            self._wide = groups * width * width * self._first.itemsize > MOST_BYTES
        self._positions += samples * positions
        self._weight += samples * (positions if read is None else read.sum().item())
        read = None if read is None else read.to(x.device)
        while samples:
            some, x = x.tensor_split([self._room(x)], 2)
            samples = x.shape[2]
            self._hold(some, read)

    def _room(self, x: Tensor) -> int:
        """Return how many samples of X can be held, one at least; what is held is multiplied if none can."""
        groups, width, _, positions = x.shape
        if self._count + positions > self._held.shape[-1]:
            if self._count:
                self._multiply()
            most = max(POSITIONS, NUMBERS // (groups * width), positions)
            if most > self._held.shape[-1]:  # laid out as what is read, so that copying it is fast
                by_position = x.stride(1) == 1
                shape = (most, groups, width) if by_position else (groups, width, most)
                self._held = x.new_empty(shape).movedim(0, 2) if by_position else x.new_empty(shape)
        return (self._held.shape[-1] - self._count) // positions

    def _hold(self, x: Tensor, read: Tensor | None) -> None:
        """Hold X, each position times the root of how often it is read, and add up its first moments."""
        end = self._count + x.shape[2] * x.shape[3]
        held = self._held[:, :, self._count : end].view(x.shape)
        self._count = end
        torch.sub(x, self._shift, out=held)
        first = held.sum(2).double()
        self._first += first.sum(2) if read is None else first @ read
        if read is not None:
            held.mul_(read.sqrt().to(held.dtype))

    def _multiply(self) -> None:
        """Add the products of what is held; nothing is held then."""
        x, self._count = self._held[..., : self._count], 0
        if self._wide:
            self._energy += x.square().sum(2)
            return
        ends = [*range(ROWS, x.shape[1], ROWS), x.shape[1]]
        found = tuple(rows @ x[:, :end].mT for rows, end in zip(torch.split(x, ROWS, 1), ends, strict=True))
        if self._products:
            found = tuple(known.double().add_(more) for known, more in zip(self._products, found, strict=True))
        self._products = found

    def moments(self) -> Moments:
        """Return the moments over all positions; the sums are used up."""
        self._multiply()
        self._held = torch.empty(0)
        shift, first = self._shift[:, :, 0, 0].double().cpu(), self._first.cpu() / self._weight
        products = tuple(rows.cpu() for rows in self._products)
        diagonals = [rows[:, :, -rows.shape[1] :].diagonal(dim1=1, dim2=2) for rows in products]
        squares = torch.cat(diagonals, 1).double() if products else self._energy.cpu()
        energy = squares / self._weight + shift * (2 * first + shift)
        if not bool(torch.isfinite(energy).all()):
            raise ValueError(
                "Expected activations on the calibration data to be finite, but what "
                f"`{self._contraction.weight}` reads is not: look at the batches and at the layers before it."
            )
        return Moments(
            contraction=self._contraction,
            positions=self._positions,
            weight=self._weight,
            mean=shift + first,
            shift=shift,
            energy=energy,
            products=products,
            normalised=self.normalised,
        )
