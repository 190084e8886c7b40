"""What a network reads and normalises while it runs."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from optuna_softprune.calibration._contraction import contraction, inputs, operands
from optuna_softprune.calibration._norms import Pooled, normalisation
from optuna_softprune.calibration._sums import Sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from optuna_softprune.calibration._moments import Moments


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
        self._sums: dict[str, Sums] = {}
        self._norms: dict[str, Pooled] = {}
        self._last: tuple[Any, Sums] | None = None

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
                sums = self._sums.setdefault(name, Sums(found))
                sums.add(*inputs(func, given, found.groups, out))
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
