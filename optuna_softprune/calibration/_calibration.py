"""Unlabelled inputs, and the moments of networks on them."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from optuna_softprune._errors import shorten
from optuna_softprune.calibration._moments import Collector, Moments
from optuna_softprune.graph import Side, copy_with, digest, first_line, map_tensors, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from optuna_softprune.graph import Group

# Seconds after which progress is shown.
PATIENCE_S = 3.0


class Calibration:
    """Unlabelled inputs like those of the metric; the same object is given to all that reads them.

    What the layers of a network read when it runs on them is measured once for each network: second moments, in
    float64, whose memory does not depend on the number of samples.

    Args:
        batches: Tuples (or lists) of the network's positional inputs, as it takes them; they are kept, and must stay
            as they are. Inputs are moved to the network's device batch by batch. A few hundred samples are enough for
            small networks; batch-norm statistics are better with batches of 64 and more. `[(x,) for x, _ in loader]`
            leaves labels out.

    Attributes:
        batches: The inputs.
        samples: How many samples they hold.

    Raises:
        TypeError: If a batch is no tuple or list.
        ValueError: If there is no batch, or one without a sample.
    """

    def __init__(self, batches: Iterable[Sequence[Any]]) -> None:
        self.batches = tuple(map(_checked, batches))
        if not self.batches:
            raise ValueError(
                "Expected `batches` to yield at least one batch, but got none. A generator can be read only once: "
                "give a list or a DataLoader."
            )
        self.samples = sum(map(_samples, self.batches))
        self._digest = _digest(self.batches)
        self._lock = threading.Lock()
        self._known: tuple[Any, Mapping[str, Moments]] = (None, {})

    def __repr__(self) -> str:
        """Return what identifies the data."""
        return f"Calibration({self.samples} samples in {len(self.batches)} batches, sha256 {self._digest[:16]})"

    def moments(self, model: nn.Module, groups: Iterable[Group]) -> Mapping[str, Moments]:
        """Return name of a weight -> what its contraction reads, of those that are seen to read a group.

        Args:
            model: The dense network; it is only read.
            groups: The groups.

        Raises:
            ValueError: If the batches do not fit, or activations are not finite.
        """
        reading = frozenset(each.tensor for group in groups for each in group.slices if each.side is Side.INPUT)
        key = (digest(model), reading)
        with self._lock:
            if self._known[0] != key:
                self._known = (key, self._collected(model, reading))
            return self._known[1]

    def _collected(self, model: nn.Module, reading: frozenset[str]) -> Mapping[str, Moments]:
        readable = copy_with(model, lambda _, tensor: tensor).eval()
        collector = Collector({id(tensor): name for name, tensor in tensors(readable)}, reading)
        with torch.no_grad():
            for number, batch in enumerate(self.inputs(readable, "calibration")):
                try:
                    with collector:
                        readable(*batch)
                except Exception as error:
                    raise ValueError(
                        f"Expected `batches` to fit the network, but batch {number} failed: {first_line(error)}. Each "
                        "batch holds the network's positional inputs and nothing else: labels do not belong to it."
                    ) from error
        return collector.moments()

    def inputs(self, model: nn.Module, task: str) -> Iterator[Sequence[Any]]:
        """Yield the batches on the device of `model`; progress of the task is shown when it takes long."""
        devices = {tensor.device for _, tensor in tensors(model)}
        device = devices.pop() if len(devices) == 1 else None
        for batch in tqdm(self.batches, desc=task, delay=PATIENCE_S, leave=False):
            yield batch if device is None else map_tensors(batch, lambda each: each.to(device))


def expect_calibration(given: object) -> None:
    """Raise a TypeError unless an argument is a `Calibration`."""
    if not isinstance(given, Calibration):
        raise TypeError(
            f"Expected `calibration` to be a `Calibration`, but got {type(given).__name__}: write "
            "`Calibration([(x,) for x in ...])`."
        )


def _checked(batch: Any) -> Sequence[Any]:
    if not isinstance(batch, (tuple, list)):
        raise TypeError(
            f"Expected `batches` to yield tuples of the network's inputs, but got {type(batch).__name__}: "
            "write `[(x,) for x in ...]`."
        )
    empty = [str(tuple(each.shape)) for each in _tensors_of(batch) if not each.numel()]
    if empty or not _tensors_of(batch):
        raise ValueError(
            "Expected every batch to hold at least one sample, but got "
            f"{f'inputs of shape {shorten(empty)}' if empty else 'one without a tensor'}."
        )
    return batch


def _tensors_of(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(batch, note)
    return found


def _samples(batch: Any) -> int:
    return next((len(each) for each in _tensors_of(batch) if each.dim()), 1)


def _digest(batches: Sequence[Any]) -> str:
    """Return a hash of all inputs, the same on every device."""
    found = hashlib.sha256()
    for batch in batches:
        for each in _tensors_of(batch):
            found.update(f"{each.dtype} {tuple(each.shape)};".encode())
            found.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
