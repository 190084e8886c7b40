"""Means over trainings, and what is said of their chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t

if TYPE_CHECKING:
    from collections.abc import Sequence


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean (Student's t); 0 for a single value."""
    count = len(values)
    return float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def mean(values: Sequence[float], digits: int, *, sign: str = "") -> str:
    """Return the mean and half of its interval as text: 0.95 ± 0.01; the mean alone for a single value."""
    text = f"{np.mean(values):{sign}.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {half_width(values):.{digits}f}"
