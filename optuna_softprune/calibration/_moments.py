"""Second moments of what every contraction reads, summed while the dense network runs.

| symbol | meaning | shape |
| --- | --- | --- |
| X | what a contraction reads: of each channel its value at every position of every sample | (g, d, positions) |
| G | second moments, X X^T / positions | (g, d, d) |
| m | means of channels | (g, d) |
| S | G, or G - m m^T where a bias or a batch norm makes up for means | (g, d, d) |
| H | S + ridge * mean(diag S) I | (g, d, d) |
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from optuna_softprune.calibration._contraction import Contraction, contraction, inputs, operands
from optuna_softprune.calibration._norms import Pooled, normalisation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# Positions whose products are summed in the precision of the network before the sums are added in float64: additions of
# fewer would take longer than multiplications.
FEW = 1024
# Widths from which products of both triangles cost more than two calls; below they are one product.
NARROW = 128
# Bytes that the moments of one layer may take: 11,585 channels. A network has a few such layers at most.
MOST_BYTES = 2**30
# Of the mean variance of what is read: what least squares is damped by.
RIDGE = 1e-3
# Variances of this part of the mean squares are rounding.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What one contraction reads on the calibration data, over all positions; float64, on the CPU.

    Attributes:
        contraction: The operation.
        positions: How many positions were read.
        energy: The diagonal of G, shape (g, d).
        mean: m, shape (g, d).
        second: G, shape (g, d, d); None if it would have taken more memory than there is.
        normalised: Whether a batch norm, which takes means off, is the first to read what the contraction makes.
    """

    contraction: Contraction
    positions: int
    energy: Tensor
    mean: Tensor
    second: Tensor | None
    normalised: bool

    @property
    def shifts_bias(self) -> bool:
        """Whether a bias has to make up for means, and can: it is there, and all outputs see it alike."""
        return self.contraction.bias is not None and self.contraction.whole and not self.normalised

    @property
    def spread(self) -> Tensor | None:
        """S (g, d, d): G, about the mean where a bias or a batch norm makes up for means."""
        if self.second is None or not (self.shifts_bias or self.normalised):
            return self.second
        return self.second - _outer(self.mean, self.mean)

    def damped(self, ridge: float) -> Tensor | None:
        """Return H (g, d, d) = S + ridge * mean(diag S) I; None if there are no second moments, or nothing varies."""
        spread = self.spread
        if spread is None:
            return None
        sizes = spread.diagonal(dim1=1, dim2=2).mean(1)
        largest = sizes.max()
        if largest <= ROUNDING * self.energy.max():
            return None
        sizes = torch.where(sizes > ROUNDING * largest, sizes, largest)  # of a group in which nothing varies
        return spread + ridge * torch.diag_embed(sizes[:, None].expand_as(self.energy))


def expect_ridge(ridge: float) -> None:
    """Raise a ValueError unless least squares can be damped by `ridge`."""
    if not isinstance(ridge, (int, float)) or not 0 < ridge <= 1:
        raise ValueError(
            f"Expected `ridge` to be in (0, 1], but got {ridge!r}: it is a part of the mean square of what a layer "
            "reads, 1e-4 to 1e-2 as a rule."
        )


class Collected(NamedTuple):
    """What was seen while a network ran, in execution order.

    Attributes:
        moments: Name of a weight -> what its contraction has read.
        norms: Name of a running mean -> mean and variance (channels,) of what its batch norm has normalised.
    """

    moments: Mapping[str, Moments]
    norms: Mapping[str, tuple[Tensor, Tensor]]


class Collector(TorchFunctionMode):
    """Adds up moments of what contractions with given weights read, and of what batch norms normalise.

    Args:
        names: id of a parameter or buffer -> its qualified name.
        reading: Names of the weights whose moments are wanted.
    """

    def __init__(self, names: Mapping[int, str], reading: frozenset[str]) -> None:
        super().__init__()
        self._names, self._reading = names, reading
        self._sums: dict[str, _Sums] = {}
        self._norms: dict[str, Pooled] = {}
        self._last: tuple[Any, _Sums] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:  # it is made of contractions, and would ask only for itself as a whole
                return _UNASKED_ATTENTION(*args, **kwargs)
        out = func(*args, **kwargs)
        norm = normalisation(func, args, kwargs)
        if norm is not None:
            self._note(norm)
        given = operands(func, args, kwargs)
        name = None if given is None else self._names.get(id(given.get("weight")))
        if given is not None and name in self._reading:
            found = contraction(func, given, name, self._names.get(id(given.get("bias"))))
            if found is not None:
                sums = self._sums.setdefault(name, _Sums(found))
                for part in inputs(func, given, found.groups, out):
                    sums.add(*part)
                self._last = out, sums
        return out

    def collected(self) -> Collected:
        """Return what was seen so far.

        Raises:
            ValueError: If a layer has read what is not finite.
        """
        return Collected(
            {name: sums.moments() for name, sums in self._sums.items()},
            {name: pooled.moments() for name, pooled in self._norms.items()},
        )

    def _note(self, norm: Mapping[str, Any]) -> None:
        """Note what a batch norm normalises."""
        if self._last is not None and self._last[0] is norm["input"]:
            self._last[1].normalised = True
        name = self._names.get(id(norm["running_mean"]))
        if name is not None:
            self._norms.setdefault(name, Pooled()).add(norm["input"])


def _unasked(function: Any) -> Any:
    """Return a function of torch that does not ask modes whether they want to do its work."""
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, "has_torch_function": lambda operands: False},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


_UNASKED_ATTENTION = _unasked(F.multi_head_attention_forward)


class _Sums:
    """Running sums of one contraction, in float64.

    Products of some positions are summed in the precision of the network, about a shift near the mean: what sums lose
    to rounding is a part of variances, not of squared means.
    """

    def __init__(self, found: Contraction) -> None:
        self._contraction = found
        self.normalised = False
        self._positions, self._weight = 0, 0.0
        self._shift: Tensor | None = None
        self._first = self._energy = torch.empty(0)
        self._second: Tensor | None = None
        self._few: Tensor | None = None
        self._in_few = 0

    def add(self, x: Tensor, read: Tensor | None) -> None:
        """Add X (g, d, positions), and how often each position is read."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        groups, width, positions = x.shape
        if self._shift is None:
            self._shift = x.mean(2, keepdim=True)
            self._first, self._energy = x.new_zeros(2, groups, width, dtype=torch.float64)
            if groups * width * width * self._first.itemsize <= MOST_BYTES:
                self._few = x.new_zeros(groups, width, width)
        x = x - self._shift
        weighted = x if read is None else x * read
        self._positions += positions
        self._weight += positions if read is None else read.sum().item()
        self._first += weighted.sum(2)
        if self._few is None:
            self._energy += (weighted * x).sum(2)
            return
        for total, *rows in zip(self._few, weighted, x, strict=True):
            _add_products(total, *rows)
        self._in_few += positions
        if self._in_few >= FEW:
            self._second = self._products(self._few)
            self._few.zero_()
            self._in_few = 0

    def _products(self, few: Tensor) -> Tensor:
        """Return the sums of products, with those of a few more positions, in float64; the former are written to."""
        return few.to(torch.float64, copy=True) if self._second is None else self._second.add_(few)

    def moments(self) -> Moments:
        """Return the means over all positions; the sums are used up."""
        assert self._shift is not None
        shift, first = self._shift[:, :, 0].double().cpu(), self._first.cpu() / self._weight
        mean, second = shift + first, None
        if self._few is None:
            energy = self._energy.cpu() / self._weight + shift * (2 * first + shift)
        else:
            second = self._products(self._few).cpu()
            for each, m, f in zip(second, mean, first, strict=True):
                _mirror(each)
                each.addmm_(torch.stack([m, f], 1), torch.stack([m, -f]), beta=1 / self._weight)
            energy = second.diagonal(dim1=1, dim2=2)
        if not bool(torch.isfinite(energy).all()):
            raise ValueError(
                "Expected activations on the calibration data to be finite, but what "
                f"`{self._contraction.weight}` reads is not: look at the batches and at the layers before it."
            )
        return Moments(
            contraction=self._contraction,
            positions=self._positions,
            energy=energy,
            mean=mean,
            second=second,
            normalised=self.normalised,
        )


def _add_products(total: Tensor, some: Tensor, others: Tensor) -> None:
    """Add the products of rows (d, positions) to `total` (d, d), on its lower triangle at least."""
    width = len(some)
    if width <= NARROW:
        total.addmm_(some, others.t())
        return
    half = width // 2
    _add_products(total[:half, :half], some[:half], others[:half])
    total[half:, :half].addmm_(some[half:], others[:half].t())
    _add_products(total[half:, half:], some[half:], others[half:])


def _mirror(lower: Tensor) -> None:
    """Make a matrix (d, d) of which the lower triangle is given symmetric, in place."""
    above = lower.t().contiguous().triu_(1)  # a copy of the whole is made in blocks: half of the time of a strided sum
    lower.tril_().add_(above)


def _outer(some: Tensor, others: Tensor) -> Tensor:
    """Return the products (g, d, d) of vectors (g, d)."""
    return some[:, :, None] * others[:, None, :]
