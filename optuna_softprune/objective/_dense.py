"""The metrics of the dense network: by them a study knows its metric again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_softprune._errors import StudyMismatchError
from optuna_softprune._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Mapping

# How far the dense network's metrics may lie from those that the study keeps, relative to the larger. Another machine
# rounds otherwise, which moves an accuracy by a few examples; a noisy metric may do anything but change its scale.
ROUNDING = 0.01
NOISE = 0.5


def check_dense(study: str, held: Mapping[str, float], found: Mapping[str, float], *, noisy: bool) -> None:
    """Raise unless the dense network has the metrics that a study keeps; of a noisy metric, warn.

    Raises:
        StudyMismatchError: If it has others.
    """
    missing = [name for name in held if name not in found]
    bound = NOISE if noisy else ROUNDING
    apart = [
        f"{name} is {found[name]:.6g} here and {value:.6g} in the study"
        for name, value in held.items()
        if name in found and abs(found[name] - value) > bound * max(abs(found[name]), abs(value))
    ]
    if not missing and not apart:
        return
    what = "; ".join([f"{name} is missing here" for name in missing] + apart)
    if noisy and not missing:
        LOGGER.warning(
            f"The dense network has other metrics than when study {study!r} began: {what}. Noise, or others?"
        )
        return
    raise StudyMismatchError(
        f"Expected the metric of study {study!r}, but the dense network has other values: {what}. Use another study "
        "name for another metric or other data; if the metric is noisy, say so with `reuse=False`."
    )
