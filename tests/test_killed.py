"""kill -9 at random moments, several workers: what the samplers promise, on the storages that users have."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from searching import NAME, searched

from optuna_softprune import open_storage
from optuna_softprune.storage import FAILURE, claim_of

optuna.logging.set_verbosity(optuna.logging.ERROR)
SCRIPT = Path(__file__).parent / "searching.py"
TOTAL = {"grid": 0, "fd": 100, "slsqp": 100, "tpe": 100}


def worker(storage: str, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), storage, kind, str(TOTAL[kind])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(storage: str, kind: str, *, workers: int, kills: int, seed: int) -> optuna.Study:
    """Run a search with `workers`, kill one at a random moment and start another, `kills` times; then let it end."""
    moments = np.random.default_rng(seed)
    first = worker(storage, kind)
    assert first.stdout is not None
    assert first.stdout.readline() == "begins\n", first.communicate()[1]
    known: dict[int, float | None] = {}
    running = [first, *(worker(storage, kind) for _ in range(workers - 1))]
    for _ in range(kills):
        time.sleep(float(moments.uniform(0.1, 1.0)))
        victim = running.pop(int(moments.integers(len(running))))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        running.append(worker(storage, kind))
        now = values(storage)
        assert {number: now.get(number) for number in known} == known
        known = now
    for each in [*running, None]:
        last = each or worker(storage, kind)  # one more takes up what was killed at the end
        _, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    assert not any(FAILURE in trial.user_attrs for trial in study.trials)
    return study


def values(storage: str) -> dict[int, float | None]:
    """Return number -> value of the complete trials."""
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    return {trial.number: trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}


def complete(study: optuna.Study) -> list[tuple[int, ...]]:
    """Return the points of the complete trials, in the order of their numbers."""
    claims = [claim_of(trial) for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    return [claim.point for claim in claims if claim]


def whole_grid(storage: str, *, workers: int, kills: int, seed: int) -> None:
    study = killed(storage, "grid", workers=workers, kills=kills, seed=seed)
    counts = Counter(complete(study))
    assert set(counts.values()) == {1}
    assert len(counts) == study.user_attrs["points"]


def whole_search(storage: str, *, workers: int, kills: int, seed: int) -> None:
    """Expect what a sampler that draws can promise: no trial lost, and at least as many as were asked for."""
    study = killed(storage, "tpe", workers=workers, kills=kills, seed=seed)
    states = Counter(trial.state for trial in study.get_trials())
    assert states[TrialState.COMPLETE] >= TOTAL["tpe"]
    assert states[TrialState.RUNNING] == 0
    numbers = [trial.number for trial in study.get_trials()]
    assert numbers == list(range(len(numbers)))


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


STORAGES = ("journal", "sqlite", "postgresql", "mysql", "redis", "grpc")


@pytest.mark.parametrize("address", ["journal"], indirect=True)
def test_grid_is_whole_however_its_workers_end(address: str) -> None:
    whole_grid(address, workers=2, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("address", "kind"), [("postgresql", "slsqp")], indirect=["address"])
def test_gradient_search_is_the_same_however_its_workers_end(address: str, kind: str) -> None:
    same_search(address, kind, workers=2, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("address", STORAGES, indirect=True)
@pytest.mark.parametrize("kind", ["grid", "fd", "slsqp", "tpe"])
def test_many_kills(address: str, kind: str) -> None:
    kills = 10 if address.startswith(("mysql", "redis", "grpc")) else 50
    workers = 1 + ["grid", "fd", "slsqp", "tpe"].index(kind)
    if kind == "grid":
        whole_grid(address, workers=workers, kills=kills, seed=1)
    elif kind == "tpe":
        whole_search(address, workers=workers, kills=kills, seed=1)
    else:
        same_search(address, kind, workers=workers, kills=kills, seed=1)
