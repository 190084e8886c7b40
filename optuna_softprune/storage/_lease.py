"""Signs of life of running trials, so that workers on other machines know that they are not dead."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import optuna

from optuna_softprune.storage._optuna import seen_at, write_seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.trial import FrozenTrial

BEAT_S = 60.0
# A worker on another machine that was not seen for so long is dead. Clocks must agree better than this.
LEASE_S = 600.0


class _Heart(threading.Thread):
    """Writes a sign of life into every running trial of this process, once a minute."""

    def __init__(self) -> None:
        super().__init__(name="softprune-lease", daemon=True)
        self.trials: set[optuna.Trial] = set()

    def run(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with _lock:
                if not self.trials:
                    global _heart
                    _heart = None
                    return
                trials = list(self.trials)
            for trial in trials:
                # A storage that cannot be reached is the search's own to report; a finished trial needs no sign.
                with contextlib.suppress(Exception):
                    write_seen(trial, time.time())


_lock = threading.Lock()
_heart: _Heart | None = None


@contextlib.contextmanager
def lease(trial: optuna.trial.BaseTrial) -> Iterator[None]:
    """Show, while it runs, that the worker of a trial lives."""
    if not isinstance(trial, optuna.Trial):
        yield
        return
    global _heart
    with _lock:
        if _heart is None:
            _heart = _Heart()
            _heart.start()
        heart = _heart
        heart.trials.add(trial)
    try:
        yield
    finally:
        with _lock:
            heart.trials.discard(trial)


def has_expired(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial was not seen for longer than a lease."""
    begun = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    return time.time() - max(begun, seen_at(trial)) > LEASE_S
