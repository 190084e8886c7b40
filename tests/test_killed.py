"""kill -9 at random moments, several workers: what the samplers promise, on the storages that users have."""

from __future__ import annotations

import time
from collections import Counter
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from searching import NAME, main, searched

from optuna_softprune import open_storage, recover
from optuna_softprune.storage import FAILURE, claim_of
from optuna_softprune.storage._optuna import OWNER

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Complete trials that a search ends with; the grid ends by itself.
SHORT, LONG = 50, 150
# Seconds in which no trial is finished though workers run: something waits for ever. Slow machines only take longer.
STALLED_S = 300
# Workers are forked from a process that has imported everything, so that kills hit their work and not their imports.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("torch._dynamo", "torch._functorch.aot_autograd", "optuna_softprune.samplers", "optuna_softprune.testing"),
        *("sqlalchemy.orm", "alembic.command", "psycopg2", "pymysql", "redis", "optuna.storages._rdb.storage"),
    ]
)


def worker(storage: str, kind: str, seconds: float, total: int = LONG) -> ForkServerProcess:
    process = PROCESSES.Process(target=main, args=(storage, kind, str(total), str(seconds)))
    process.start()
    return process


def killed(storage: str, kind: str, *, workers: int, kills: int, total: int) -> optuna.Study:
    """Run a search with `workers`, kill one at a random moment and start another, `kills` times; then let it end.

    The metric takes so long that the search lasts about as long as the kills. Two of three kills hit a worker that has
    begun a trial: on a busy machine most of a worker's life is its start.
    """
    moments = np.random.default_rng(1)
    seconds = kills * workers / total
    running = [worker(storage, kind, seconds, total)]
    known: dict[int, float | None] = {}
    while not known:  # the first worker has made the study
        time.sleep(0.1)
        assert running[0].is_alive()
        known = values(storage)
    running += [worker(storage, kind, seconds, total) for _ in range(workers - 1)]
    for kill in range(kills):
        victims = at_work(storage, running) if kill % 3 else running
        time.sleep(float(moments.uniform(0.5, 2.0)))
        victim = victims[int(moments.integers(len(victims)))]
        running.remove(victim)
        victim.kill()
        victim.join()
        running.append(worker(storage, kind, seconds, total))
        now = values(storage)
        assert {number: now.get(number) for number in known} == known
        known = now
    for each in [*running, None]:
        last = each or worker(storage, kind, 0, total)  # one more takes up what was killed at the end
        wait_for(last, storage)
        assert last.exitcode == 0
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    assert not any(FAILURE in trial.user_attrs for trial in study.trials)
    interrupted = sum(trial.state == TrialState.FAIL for trial in study.trials)
    print(f"{kind}, {workers} workers, {kills} kills: {interrupted} trials interrupted, {len(known)} complete by then")
    assert interrupted >= kills / 4
    return study


def values(storage: str) -> dict[int, float | None]:
    """Return number -> value of the complete trials."""
    opened = open_storage(storage)
    if NAME not in optuna.get_all_study_names(opened):
        return {}
    study = optuna.load_study(study_name=NAME, storage=opened)
    return {trial.number: trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}


def wait_for(running: ForkServerProcess, storage: str) -> None:
    """Wait until a worker has ended, or no trial is finished any more."""
    finished = -1
    while running.is_alive() and finished < (finished := len(values(storage))):
        running.join(STALLED_S)


def at_work(storage: str, running: list[ForkServerProcess]) -> list[ForkServerProcess]:
    """Wait for workers that have begun a trial and return them; all if none lives."""
    while any(each.is_alive() for each in running):
        study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
        known = {trial.system_attrs[OWNER]["pid"] for trial in study.trials if OWNER in trial.system_attrs}
        found = [each for each in running if each.pid in known]
        if found:
            return found
        time.sleep(0.1)
    return running


def complete(study: optuna.Study) -> list[tuple[int, ...]]:
    """Return the points of the complete trials, in the order of their numbers."""
    claims = [claim_of(trial) for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    return [claim.point for claim in claims if claim]


def whole_grid(storage: str, kind: str, *, workers: int, kills: int, total: int) -> None:
    study = killed(storage, kind, workers=workers, kills=kills, total=total)
    counts = Counter(complete(study))
    assert set(counts.values()) == {1}
    assert len(counts) == study.user_attrs["points"]


def whole_search(storage: str, *, workers: int, kills: int, total: int) -> None:
    """Expect what a sampler that draws can promise: no trial lost, and at least as many as were asked for."""
    study = killed(storage, "tpe", workers=workers, kills=kills, total=total)
    recover(study, force=True)  # a worker that was killed before it wrote its name is known as dead after ten minutes
    states = Counter(trial.state for trial in study.get_trials())
    assert states[TrialState.COMPLETE] >= total
    assert states[TrialState.RUNNING] == 0
    numbers = [trial.number for trial in study.get_trials()]
    assert numbers == list(range(len(numbers)))


def same_search(storage: str, kind: str, *, workers: int, kills: int, total: int) -> None:
    """Compare with one worker that nothing happened to."""
    study = killed(storage, kind, workers=workers, kills=kills, total=total)
    found = complete(study)
    assert max(Counter(found).values()) == 1
    objective, sampler = searched(kind)
    alone = optuna.create_study(direction="maximize", sampler=sampler)
    alone.optimize(objective, n_trials=len(found) + 60)
    path = complete(alone)
    assert len(found) >= min(total, len(path))  # some searches end by themselves
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


def ends_well(storage: str, kind: str, *, workers: int, kills: int, total: int) -> None:
    if kind.startswith("grid"):
        whole_grid(storage, kind, workers=workers, kills=kills, total=total)
    elif kind == "tpe":
        whole_search(storage, workers=workers, kills=kills, total=total)
    else:
        same_search(storage, kind, workers=workers, kills=kills, total=total)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("journal", "fd"),
        ("sqlite", "grid"),
        ("postgresql", "slsqp"),
        ("mysql", "grid"),
        ("redis", "simultaneous"),
        ("grpc", "tpe"),
        ("journal", "fd refitted"),
    ],
    indirect=["address"],
)
def test_a_few_kills(address: str, kind: str) -> None:
    ends_well(address, kind, workers=2, kills=4, total=SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("address", STORAGES, indirect=True)
@pytest.mark.parametrize(
    ("kind", "workers"),
    [("grid", 1), ("fd", 2), ("slsqp", 3), ("simultaneous", 3), ("largest", 3), ("tpe", 4)],
)
def test_many_kills(address: str, kind: str, workers: int) -> None:
    kills = 10 if address.startswith(("mysql", "redis", "grpc")) else 50
    ends_well(address, kind, workers=workers, kills=kills, total=LONG)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["journal", "postgresql"], indirect=True)
@pytest.mark.parametrize(("kind", "workers"), [("grid refitted", 2), ("fd refitted", 2)])
def test_kills_of_refitted_searches(address: str, kind: str, workers: int) -> None:
    ends_well(address, kind, workers=workers, kills=10, total=LONG)
