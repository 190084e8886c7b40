"""Call the user's metric on one network, and check what it returns."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_softprune.evaluation._watch import Watch

# `metric(model)`, or `metric(model, trial)`.
Metric = Callable[..., float | Mapping[str, float]]
TRIAL = "trial"
METRIC = "metric"
# What is called so is a time.
TIMES = re.compile(r"(?:^|_)(?:latency|throughput|fps|ms|milliseconds|seconds)(?:_|$)", re.IGNORECASE)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from optuna_softprune.evaluation._candidate import Candidate
    from optuna_softprune.evaluation._evaluator import Evaluator


class Measurement(NamedTuple):
    """What a metric returned of a candidate.

    Attributes:
        metrics: By name.
        shared: `(args, kwargs)` of a forward pass that shared values with other candidates; None if none did.
    """

    metrics: dict[str, float]
    shared: tuple[tuple[Any, ...], dict[str, Any]] | None


def takes_trial(metric: Metric) -> bool:
    """Return whether `metric` has a parameter named `trial` behind the model."""
    try:
        parameters = list(inspect.signature(metric).parameters.values())
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False
    return any(p.name == TRIAL and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters[1:])


def name_of(metric: Metric) -> str:
    """Return what a metric is called where people read: its function's name, if that has one."""
    while isinstance(metric, functools.partial):
        metric = metric.func
    name = getattr(metric, "__name__", type(metric).__name__)
    return METRIC if name == "<lambda>" else str(name)


def measure(
    metric: Metric,
    evaluator: Evaluator,
    candidate: Candidate,
    names: Iterable[str],
    dense: Mapping[str, float] | None = None,
) -> Measurement:
    """Return the named metrics of a candidate; a metric that is a single float is called `metric`.

    Args:
        metric: The user's black box.
        evaluator: Makes the removed network.
        candidate: The candidate.
        names: Names that must be there.
        dense: The metrics of the dense network, if they are known.

    Raises:
        TypeError: If the metric returns no float, or no mapping of names to floats.
        ValueError: If a name is missing, the metric did not use the model that it was given, or what is called a time
            was taken of passes that share values.
    """
    watch = Watch()
    returned = metric(evaluator.module(candidate, watch))
    watch.off()
    values = _named(returned)
    if not watch.used:
        if not watch.seen or (values == dense and not candidate.kept.all()):
            raise ValueError(
                "Expected `metric` to run the model that it is given, but it never did: it must use its argument, not "
                "the dense network from around it, or every candidate gets the dense network's value."
            )
        evaluator.tell(
            "The metric neither ran nor copied the network that it was given, but may have read its weights. If it ran "
            "the dense network instead, every candidate has that one's value: use the argument."
        )
    if watch.shared is not None and not watch.seen:  # it is still no network of its own
        _expect_no_times([*values, name_of(metric)])
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"Expected `metric` to return {missing}, but got only {list(values)}.")
    return Measurement(values, watch.shared)


def _expect_no_times(names: Iterable[str]) -> None:
    time = next((name for name in names if TIMES.search(name)), None)
    if time is not None:
        raise ValueError(
            f"Expected `{time}` to be the time of a whole forward pass, but candidates share what their passes have in "
            "common, so that says nothing: measure it with `optuna_softprune.latency_ms(model, inputs)`, or evaluate "
            "each candidate whole with `PruningObjective(..., cache_bytes=0)`."
        )


def not_finite(values: Mapping[str, float]) -> str:
    """Return which of the metrics is NaN or infinite, or an empty string."""
    return ", ".join(f"metric `{name}` is {value}" for name, value in values.items() if not math.isfinite(value))


def _named(returned: Any) -> dict[str, float]:
    if isinstance(returned, Mapping):
        wrong = [name for name, value in returned.items() if not _is_number(value) or not isinstance(name, str)]
        if wrong or not returned:
            raise TypeError(
                f"Expected `metric` to return a mapping of names to floats, but got {returned!r}: "
                f"{_remedy_of(wrong[0], returned[wrong[0]]) if wrong else 'name what is measured'}"
            )
        return {name: float(value) for name, value in returned.items()}
    if not _is_number(returned):
        raise TypeError(
            f"Expected `metric` to return a float or a mapping, but got {type(returned).__name__}: {_remedy(returned)}"
        )
    return {METRIC: float(returned)}


def _remedy_of(name: Any, value: Any) -> str:
    if not isinstance(name, str):
        return "names are texts"
    return f"`{name}` is a {type(value).__name__}: {_remedy(value)}"


def _remedy(returned: Any) -> str:
    if returned is None:
        return "does it end in `return`?"
    if hasattr(returned, "item"):
        return "write `.item()` behind the tensor"
    if isinstance(returned, (str, bytes)):
        return "return the number that it was made of"
    if isinstance(returned, (tuple, list)):
        return 'give each number a name, as in `{"psnr": psnr, "ssim": ssim}`, and name one in `objectives`'
    return "return the number that counts, or several by name"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
