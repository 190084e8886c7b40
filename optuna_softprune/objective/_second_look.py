"""When a candidate's network is looked at a second time: whenever it becomes the best of its study."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from optuna_softprune._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

# Study attribute: from which trial on, and why, each candidate is evaluated whole.
WHOLE = "softprune:whole"


class SecondLook:
    """Which trials of a study were best when they came, in any of its objectives, as far as this process has seen.

    Attributes:
        since: The number of the first trial that is evaluated whole; None: none is.
    """

    def __init__(self, study: optuna.Study, directions: Sequence[str]) -> None:
        held: dict[str, Any] | None = study.user_attrs.get(WHOLE)
        self.since: int | None = None if held is None else held["since"]
        self._signs = [1 if direction == "maximize" else -1 for direction in directions]
        self._best = [-math.inf] * len(directions)
        self._lock = threading.Lock()

    def is_due(self, values: Sequence[float]) -> bool:
        """Return whether a feasible candidate is the best so far."""
        with self._lock:
            signed = [sign * value for sign, value in zip(self._signs, values, strict=True)]
            due = any(value > best for value, best in zip(signed, self._best, strict=True))
            self._best = [max(pair) for pair in zip(signed, self._best, strict=True)]
            return due

    def distrust(self, study: optuna.Study, number: int, reason: str) -> None:
        """Let no value that was shared before a trial be taken over, here or by workers that begin later."""
        self.since = number
        study.set_user_attr(WHOLE, {"since": number, "reason": reason})
        LOGGER.warning(f"Each candidate of study {study.study_name!r} is evaluated whole from now on: {reason}.")
