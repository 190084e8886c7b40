"""Keep the dashboard's view of a running search up to date."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.artifacts import get_all_artifact_meta, upload_artifact

from optuna_softprune._log import LOGGER
from optuna_softprune.dashboard._publish import publish
from optuna_softprune.objective import PruningObjective
from optuna_softprune.shipping import save_pruned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import optuna
    from optuna.trial import FrozenTrial
    from torch import nn

    Write = Callable[[nn.Module, Path], object]

# What the first update is taken to cost, in seconds, before one was measured: plotly is imported then.
FIRST_UPDATE_S = 2.0


class DashboardCallback:
    """Callback of `study.optimize`: writes note, figures and pictures now and then. It never fails a search.

    Updates take at most `share` of the time that the search has taken; call `update(study)` at its end for the last
    word, and for the file of the best network. With several workers one of them is enough.

    Args:
        objective: The objective of the search.
        share: Largest share of the search's time, in (0, 1].
        draw: `draw(network, path)`: draws what a network does, say reconstructions, into a PNG file. Called with what
            `objective.best_model` returns, when there is a new best trial.
        artifact_store: Where pictures and files of networks are kept, as artifacts of the study:
            `optuna.artifacts.FileSystemArtifactStore(folder)`, and `optuna-dashboard --artifact-dir folder` shows
            them. `trial-7.safetensors` is what `save_pruned` writes, for `load_pruned`.

    Raises:
        TypeError: If `objective` is no `PruningObjective`.
        ValueError: If `share` is out of its range, or `draw` is given without `artifact_store`.
    """

    def __init__(
        self,
        objective: PruningObjective,
        *,
        share: float = 0.05,
        draw: Write | None = None,
        artifact_store: Any = None,
    ) -> None:
        if not isinstance(objective, PruningObjective):
            raise TypeError(f"Expected `objective` to be a `PruningObjective`, but got {type(objective).__name__}.")
        if not 0 < share <= 1:
            raise ValueError(f"Expected `share` to be in (0, 1], but got {share!r}.")
        if draw is not None and artifact_store is None:
            raise ValueError(
                "Expected `draw` together with `artifact_store`, which keeps the pictures, but got no store."
            )
        self._objective, self._share, self._draw, self._store = objective, share, draw, artifact_store
        self._begun = time.monotonic()
        self._spent, self._last = 0.0, FIRST_UPDATE_S
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Update note, figures and picture, if the share of time allows it."""
        if self._spent + self._last <= self._share * (time.monotonic() - self._begun):
            self._updated(study, {"png": self._draw})

    def update(self, study: optuna.Study) -> None:
        """Update now, and keep the best network's file; what goes wrong is logged once, and stops nothing."""
        self._updated(study, {"png": self._draw, "safetensors": save_pruned})

    def _updated(self, study: optuna.Study, kinds: Mapping[str, Write | None]) -> None:
        if not self._lock.acquire(blocking=False):  # another thread is at it
            return
        begin = time.monotonic()
        try:
            publish(study, self._objective.space)
            self._keep(study, {kind: write for kind, write in kinds.items() if write is not None})
        except Exception as error:
            kind = type(error).__name__
            if kind not in self._said:
                self._said.add(kind)
                LOGGER.warning(f"The dashboard's view of {study.study_name!r} could not be updated: {kind}: {error}")
        finally:
            self._last = time.monotonic() - begin
            self._spent += self._last
            self._lock.release()

    def _keep(self, study: optuna.Study, kinds: Mapping[str, Write]) -> None:
        """Keep files of the best network that the study does not have yet."""
        if self._store is None or len(study.directions) > 1:
            return
        try:
            number = study.best_trial.number
        except ValueError:
            return  # nothing is feasible yet
        there = {artifact.filename for artifact in get_all_artifact_meta(study)}
        missing = {kind: write for kind, write in kinds.items() if f"trial-{number}.{kind}" not in there}
        if not missing:
            return
        small = self._objective.best_model(study).eval()
        with tempfile.TemporaryDirectory() as folder:
            for kind, write in missing.items():
                file = Path(folder) / f"trial-{number}.{kind}"
                write(small, file)
                upload_artifact(artifact_store=self._store, file_path=str(file), study_or_trial=study)
