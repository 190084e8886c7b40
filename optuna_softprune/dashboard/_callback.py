"""Keep the dashboard's view of a running search up to date."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.artifacts import upload_artifact

from optuna_softprune._log import LOGGER
from optuna_softprune.dashboard._publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna
    from optuna.trial import FrozenTrial
    from torch import nn

    from optuna_softprune._space import PruningSpace

# What the first update is taken to cost, in seconds, before one was measured: plotly is imported then.
FIRST_UPDATE_S = 2.0


class DashboardCallback:
    """Callback of `study.optimize`: writes note, figures and pictures now and then. It never fails a search.

    Updates take at most `share` of the time that the search has taken; call `update(study)` at its end for the last
    word. With several workers one of them is enough.

    Args:
        space: The search space.
        share: Largest share of the search's time, in (0, 1].
        draw: `draw(network, path)`: draws what a network does, say reconstructions, into a PNG file. Called for the
            best feasible network, when it is a new one; the pictures are artifacts of the study.
        artifact_store: Where pictures are kept: `optuna.artifacts.FileSystemArtifactStore(folder)`, and
            `optuna-dashboard --artifact-dir folder` shows them.

    Raises:
        ValueError: If `share` is out of its range, or only one of `draw` and `artifact_store` is given.
    """

    def __init__(
        self,
        space: PruningSpace,
        *,
        share: float = 0.05,
        draw: Callable[[nn.Module, Path], object] | None = None,
        artifact_store: Any = None,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"Expected `share` to be in (0, 1], but got {share!r}.")
        if (draw is None) != (artifact_store is None):
            raise ValueError("Expected `draw` and `artifact_store` together, or none of them, but got one.")
        self._space, self._share, self._draw, self._store = space, share, draw, artifact_store
        self._begun = time.monotonic()
        self._spent, self._last = 0.0, FIRST_UPDATE_S
        self._drawn: int | None = None
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Update, if the share of time allows it."""
        if self._spent + self._last <= self._share * (time.monotonic() - self._begun):
            self.update(study)

    def update(self, study: optuna.Study) -> None:
        """Update now; what goes wrong is logged once, and does not stop the search."""
        if not self._lock.acquire(blocking=False):  # another thread is at it
            return
        begin = time.monotonic()
        try:
            publish(study, self._space)
            self._picture(study)
        except Exception as error:
            kind = type(error).__name__
            if kind not in self._said:
                self._said.add(kind)
                LOGGER.warning(f"The dashboard's view of {study.study_name!r} could not be updated: {kind}: {error}")
        finally:
            self._last = time.monotonic() - begin
            self._spent += self._last
            self._lock.release()

    def _picture(self, study: optuna.Study) -> None:
        if self._draw is None or self._store is None or len(study.directions) > 1:
            return
        try:
            best = study.best_trial
        except ValueError:
            return  # nothing is feasible yet
        if best.number == self._drawn:
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"trial-{best.number}.png"
            self._draw(self._space.prune(self._space.coefficients(best.params)).eval(), file)
            upload_artifact(artifact_store=self._store, file_path=str(file), study_or_trial=study)
        self._drawn = best.number
