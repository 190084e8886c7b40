"""How long a forward pass takes, and how much memory."""

from __future__ import annotations

import html
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optuna_softprune._errors import shorten
from optuna_softprune._table import aligned, html_table
from optuna_softprune.report._memory import peak_bytes, weights_bytes
from optuna_softprune.report._running import checked_call, device_of, evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_softprune.report._running import Call

Runs = Callable[..., Any]


class Measured(NamedTuple):
    """What a network takes.

    Attributes:
        network: "dense" or "small".
        latency_ms: Median time of a forward pass, in milliseconds.
        peak_bytes: The most memory that the values of a pass take at once, weights and inputs not counted.
        weights_bytes: Memory of parameters and buffers; a file of them has some kB more.
    """

    network: str
    latency_ms: float
    peak_bytes: int
    weights_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A dense and a smaller network on the same inputs; `print` it.

    Attributes:
        dense: What the dense network takes.
        small: What the smaller one takes.
        method: How that was measured.
    """

    dense: Measured
    small: Measured
    method: str

    @property
    def rows(self) -> tuple[Measured, Measured]:
        """Both, for `pandas.DataFrame(comparison.rows)`."""
        return self.dense, self.small

    @property
    def speedup(self) -> float:
        """Latency of the dense network over that of the smaller one."""
        return self.dense.latency_ms / self.small.latency_ms

    def _table(self) -> list[tuple[str, ...]]:
        return [
            ("network", "latency in ms", "peak memory in MB", "weights in MB"),
            *(
                (row.network, f"{row.latency_ms:.3f}", f"{row.peak_bytes / 1e6:.3f}", f"{row.weights_bytes / 1e6:.3f}")
                for row in self.rows
            ),
            (
                "dense / small",
                *(
                    f"{dense / small:.2f}" if small else "-"
                    for dense, small in zip(self.dense[1:], self.small[1:], strict=True)
                ),
            ),
        ]

    def __str__(self) -> str:
        """Return a table, and how it was measured."""
        return "\n".join([*aligned(self._table(), "<>>>"), self.method])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return f"{html_table(self._table())}<p>{html.escape(self.method)}</p>"


def latency_ms(
    model: Runs,
    inputs: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    repetitions: int = 30,
    warmup: int = 5,
) -> float:
    """Return the median time of a forward pass in milliseconds; a metric may return it.

    A network is run in eval mode without gradients, with as many threads as `torch.set_num_threads` says, and is left
    as it was. A metric's network is measured as the smaller network that it stands for, whatever passes share; that it
    is watched adds some microseconds for each of its modules.

    Args:
        model: A network, or anything else that is called with the inputs, such as another runtime's session.
        inputs: Positional inputs, as a tuple. Their batch size counts: time does not grow in proportion to it.
        kwargs: Keyword inputs.
        repetitions: How many passes are timed, one by one; at least 1.
        warmup: How many passes come before; at least 0.

    Raises:
        TypeError: If `inputs` is no tuple.
        ValueError: If `repetitions` or `warmup` is too small.
    """
    call = checked_call(inputs, kwargs)
    _expect_counts(repetitions, warmup)
    with evaluating(model):
        (found,) = _in_turns([model], call, repetitions, warmup)
    return found


def compare(
    dense: nn.Module,
    small: nn.Module,
    inputs: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    repetitions: int = 30,
    warmup: int = 5,
) -> Comparison:
    """Return what a dense and a smaller network take on the same inputs: time, memory, weights; `print` it.

    Passes of both are timed in turns, so that a busy machine is equally hard on both. Networks are run as in
    `latency_ms`.

    Args:
        dense: The dense network.
        small: The smaller one.
        inputs: Positional inputs, as a tuple, on the device where the networks are.
        kwargs: Keyword inputs.
        repetitions: How many passes of each are timed; at least 1.
        warmup: How many passes of each come before; at least 0.

    Raises:
        TypeError: If `inputs` is no tuple.
        ValueError: If `repetitions` or `warmup` is too small.
    """
    call, models = checked_call(inputs, kwargs), {"dense": dense, "small": small}
    _expect_counts(repetitions, warmup)
    device = device_of(call)
    with evaluating(dense, small):
        latencies = _in_turns(list(models.values()), call, repetitions, warmup)
        rows = [
            Measured(name, latency, peak_bytes(model, call, device), weights_bytes(model))
            for (name, model), latency in zip(models.items(), latencies, strict=True)
        ]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    shapes = shorten([str(tuple(each.shape)) for each in pytree.tree_leaves(call) if isinstance(each, Tensor)])
    threads = torch.get_num_threads()
    method = (
        f"median of {repetitions} passes each, in turns, after {warmup} of warm-up; inputs {shapes}; {where}, "
        f"{threads} thread{'s' * (threads != 1)}, torch {torch.__version__}"
    )
    return Comparison(rows[0], rows[1], method)


def _in_turns(models: Sequence[Runs], call: Call, repetitions: int, warmup: int) -> list[float]:
    """Return the median time of each model's passes, in milliseconds."""
    device = device_of(call)
    times: list[list[float]] = [[] for _ in models]
    for i in range(warmup + repetitions):
        for model, mine in zip(models, times, strict=True):
            elapsed = _timed(model, call, device)
            if i >= warmup:
                mine.append(elapsed)
    return [statistics.median(mine) for mine in times]


def _timed(model: Runs, call: Call, device: torch.device) -> float:
    waits = device.type != "cpu"  # an accelerator returns before it is done
    if waits:
        torch.accelerator.synchronize(device)
    begin = time.perf_counter()
    model(*call[0], **call[1])
    if waits:
        torch.accelerator.synchronize(device)
    return 1e3 * (time.perf_counter() - begin)


def _expect_counts(repetitions: int, warmup: int) -> None:
    for name, value, least in (("repetitions", repetitions, 1), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"Expected `{name}` to be at least {least}, but got {value!r}.")
