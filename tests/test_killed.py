"""kill -9 at random moments, several workers: what the samplers promise, on the storages that users have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from searching import NAME, searched

from optuna_softprune import open_storage
from optuna_softprune.storage import FAILURE, claim_of

if TYPE_CHECKING:
    from collections.abc import Iterator

optuna.logging.set_verbosity(optuna.logging.ERROR)
SCRIPT = Path(__file__).parent / "searching.py"
POSTGRESQL = os.environ.get("SOFTPRUNE_TEST_POSTGRESQL")
TOTAL = {"grid": 0, "fd": 200, "slsqp": 200}
here = pytest.mark.skipif(POSTGRESQL is None, reason="SOFTPRUNE_TEST_POSTGRESQL has no address of a database")
storages = pytest.mark.parametrize(
    "address", ["journal", "sqlite", pytest.param("postgresql", marks=here)], indirect=True
)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param != "postgresql":
        yield f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else str(tmp_path / "study.journal")
        return
    assert POSTGRESQL is not None
    _forget()
    yield POSTGRESQL
    _forget()


def _forget() -> None:
    assert POSTGRESQL is not None
    storage = open_storage(POSTGRESQL)
    if NAME in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=NAME, storage=storage)


def worker(storage: str, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), storage, kind, str(TOTAL[kind])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(storage: str, kind: str, *, workers: int, kills: int, seed: int) -> optuna.Study:
    """Run a search with `workers`, kill one at a random moment and start another, `kills` times; then let it end."""
    moments = np.random.default_rng(seed)
    first = worker(storage, kind)
    assert first.stdout is not None
    assert first.stdout.readline() == "begins\n", first.communicate()[1]
    running = [first, *(worker(storage, kind) for _ in range(workers - 1))]
    for _ in range(kills):
        time.sleep(float(moments.uniform(0.1, 1.0)))
        victim = running.pop(int(moments.integers(len(running))))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        running.append(worker(storage, kind))
    for each in [*running, None]:
        last = each or worker(storage, kind)  # one more takes up what was killed at the end
        _, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    assert not any(FAILURE in trial.user_attrs for trial in study.trials)
    return study


def complete(study: optuna.Study) -> list[tuple[int, ...]]:
    """Return the points of the complete trials, in the order of their numbers."""
    claims = [claim_of(trial) for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    return [claim.point for claim in claims if claim]


def whole_grid(storage: str, *, workers: int, kills: int, seed: int) -> None:
    study = killed(storage, "grid", workers=workers, kills=kills, seed=seed)
    counts = Counter(complete(study))
    assert set(counts.values()) == {1}
    assert len(counts) == study.user_attrs["points"]


def same_search(storage: str, kind: str, *, workers: int, kills: int, seed: int) -> None:
    """Compare with one worker that nothing happened to."""
    study = killed(storage, kind, workers=workers, kills=kills, seed=seed)
    found = complete(study)
    assert len(found) >= TOTAL[kind]
    assert max(Counter(found).values()) == 1
    objective, sampler = searched(kind)
    alone = optuna.create_study(direction="maximize", sampler=sampler)
    alone.optimize(objective, n_trials=len(found) + 60)
    path = complete(alone)
    asked = {c.point for c in map(claim_of, study.get_trials(states=(TrialState.COMPLETE,))) if c and c.role != "extra"}
    assert asked <= set(path)
    # What is known is the beginning of the path, whole but for the points that are asked for next, and what comes
    # next is what comes next there.
    following = [point for point in path if point not in set(found)]
    study.sampler = sampler
    study.optimize(objective, n_trials=20)
    assert complete(study)[len(found) :] == following[:20]
    reached = max(path.index(point) for point in asked)
    assert sum(point not in set(found) for point in path[:reached]) <= 2 * 4 + workers  # within one gradient


@pytest.mark.parametrize("address", ["journal", pytest.param("postgresql", marks=here)], indirect=True)
def test_grid_is_whole_however_its_workers_end(address: str) -> None:
    whole_grid(address, workers=2, kills=2, seed=0)


@pytest.mark.parametrize(
    ("address", "kind"), [("journal", "fd"), pytest.param("postgresql", "slsqp", marks=here)], indirect=["address"]
)
def test_gradient_search_is_the_same_however_its_workers_end(address: str, kind: str) -> None:
    same_search(address, kind, workers=2, kills=2, seed=0)


@pytest.mark.slow
@storages
@pytest.mark.parametrize("kind", ["grid", "fd", "slsqp"])
def test_twenty_kills_with_three_workers(address: str, kind: str) -> None:
    if kind == "grid":
        whole_grid(address, workers=3, kills=20, seed=1)
    else:
        same_search(address, kind, workers=3, kills=20, seed=1)
