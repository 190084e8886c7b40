"""Storages that survive crashes: opening, recovering, counting what is left."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from searching import NAME, open_together, searched

import optuna_softprune.storage._lease
import optuna_softprune.storage._open
from optuna_softprune import StorageError, open_storage, recover, remaining_trials
from optuna_softprune.storage import FAILURE, Recovery, owner_of, this_worker, write_owner
from optuna_softprune.storage._optuna import seen_at, write_seen

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parent / "searching.py"
TOTAL = 40


def storage_in(folder: Path, kind: str) -> str:
    return f"sqlite:///{folder}/search.db" if kind == "sqlite" else str(folder / "search.journal")


def start(storage: str, total: int = TOTAL) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), storage, "random", str(total)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "begins\n":
        _, errors = process.communicate()
        raise AssertionError(errors)
    return process


def completed(storage: str) -> dict[int, Any]:
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    return {trial.number: trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}


@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_killed_search_loses_nothing_and_ends_with_the_total_asked_for(tmp_path: Path, kind: str) -> None:
    storage = storage_in(tmp_path, kind)
    moments = random.Random(0)
    known: dict[int, Any] = {}
    for _ in range(2):
        process = start(storage)
        time.sleep(moments.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = completed(storage)
        assert {number: now[number] for number in known} == known
        known = now
    process = start(storage)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == TOTAL
    assert TrialState.WAITING not in states
    assert remaining_trials(study, TOTAL) == 0
    now = completed(storage)
    assert {number: now[number] for number in known} == known


def running(study: optuna.Study, owner: dict[str, Any] | None) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    if owner is not None:
        write_owner(trial, owner)
    return trial


def test_recover_fails_what_dead_workers_left_and_queues_it_again() -> None:
    study = optuna.create_study()
    mine = running(study, this_worker())
    dead = running(study, {**this_worker(), "pid": 2**22 + 1})
    reused = running(study, {**this_worker(), "start": "1"})
    elsewhere = running(study, {**this_worker(), "host": "another"})
    rebooted = running(study, {**this_worker(), "boot": "before"})
    unknown = running(study, None)
    found = recover(study)
    assert found == Recovery(
        (dead.number, reused.number), (mine.number,), (elsewhere.number, rebooted.number, unknown.number)
    )
    states = {trial.number: trial.state for trial in study.trials}
    for trial in (mine, elsewhere, rebooted, unknown):
        assert states[trial.number] == TrialState.RUNNING
    queued = [trial for trial in study.trials if trial.state == TrialState.WAITING]
    assert [trial.system_attrs["fixed_params"] for trial in queued] == [dead.params, reused.params]
    assert recover(study).taken_up == ()
    assert recover(study, force=True).taken_up == (mine.number, elsewhere.number, rebooted.number, unknown.number)


def test_remaining_trials_counts_what_is_done() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    study.tell(study.ask(), state=TrialState.PRUNED)
    failed = study.ask()
    failed.set_user_attr(FAILURE, "ValueError: of the metric")
    study.tell(failed, state=TrialState.FAIL)
    study.tell(study.ask(), state=TrialState.FAIL)  # killed, or interrupted
    running(study, this_worker())  # somebody's
    running(study, {**this_worker(), "host": "another"})
    running(study, {**this_worker(), "start": "1"})  # of a dead worker
    study.ask()  # killed as it began
    assert remaining_trials(study, 10) == 10 - 3 - 1 - 1 - 2
    assert remaining_trials(study, 2) == 0
    for wrong in (-1, 2.5, True, "10"):
        with pytest.raises(ValueError, match=r"Expected `total` to be an integer of at least 0, but got"):
            remaining_trials(study, wrong)  # type: ignore[arg-type]


def test_torn_last_line_of_a_journal_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "torn.journal"
    study = optuna.create_study(storage=open_storage(path), study_name=NAME)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 6, "worker_id": "torn')
    again = optuna.load_study(storage=open_storage(path), study_name=NAME)
    assert len(again.trials) == 5
    assert path.read_bytes() == whole
    again.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(optuna.load_study(storage=open_storage(path), study_name=NAME).trials) == 6


def test_journal_torn_in_its_only_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "torn.journal"
    path.write_bytes(b'{"op_code": 0')
    assert optuna.create_study(storage=open_storage(path)).trials == []


def test_line_that_is_torn_while_others_write_is_cut_off_before_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "torn.journal"
    study = optuna.create_study(storage=open_storage(path), study_name=NAME)
    with path.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_id": "torn')
    optuna.logging.enable_propagation()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    optuna.logging.disable_propagation()
    assert len(optuna.load_study(storage=open_storage(path), study_name=NAME).trials) == 3
    (copy,) = tmp_path.glob("torn.journal.torn-*")
    assert copy.read_bytes() == b'{"op_code": 6, "worker_id": "torn'
    assert any("a copy is in" in message for message in caplog.messages)


def locked(path: Path, age_s: float) -> Path:
    optuna.create_study(storage=open_storage(path), study_name=NAME)
    lock = Path(f"{path}.lock")
    lock.symlink_to(path)
    then = time.time() - age_s
    os.utime(lock, (then, then), follow_symlinks=False)
    os.utime(path, (then, then))
    return lock


def test_dead_lock_of_a_journal_is_removed_without_waiting(tmp_path: Path) -> None:
    lock = locked(tmp_path / "locked.journal", age_s=31)
    begin = time.monotonic()
    study = optuna.load_study(storage=open_storage(tmp_path / "locked.journal"), study_name=NAME)
    study.optimize(lambda trial: 0.0, n_trials=1)
    assert time.monotonic() - begin < 10
    assert not lock.is_symlink()


HANGS = """
import os, sys, time, optuna
from optuna_softprune import open_storage
study = optuna.load_study(study_name=sys.argv[2], storage=open_storage(sys.argv[1]))
def hang(_):
    print("writes", flush=True)
    time.sleep(600)
os.fsync = hang
study.set_user_attr("a", 1)
"""


def test_lock_of_a_worker_is_its_own_while_it_lives_and_free_when_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "shared.journal"
    study = optuna.create_study(storage=open_storage(path), study_name=NAME)
    command = [sys.executable, "-c", HANGS, str(path), NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        writing = threading.Thread(target=lambda: study.set_user_attr("b", 2), daemon=True)
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "writes\n"
            writing.start()
            writing.join(3)
            assert writing.is_alive()
        finally:
            other.kill()
        writing.join(5)
        assert not writing.is_alive()
    again = optuna.load_study(study_name=NAME, storage=open_storage(path))
    assert again.user_attrs["b"] == 2
    assert not Path(f"{path}.lock").is_symlink()


def test_lock_of_a_worker_that_may_be_suspended_is_not_taken_away(tmp_path: Path) -> None:
    lock = locked(tmp_path / "locked.journal", age_s=20)
    open_storage(tmp_path / "locked.journal")
    assert lock.is_symlink()


class FullDisk(io.FileIO):
    """A file that takes half of what it is given, and then no more."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_search_on_a_full_disk_stops_and_goes_on_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "full.journal"
    study = optuna.create_study(storage=open_storage(path), study_name=NAME)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    full = {"a": FullDisk, "r": io.FileIO}
    journal = optuna.storages.journal._file
    monkeypatch.setattr(journal, "open", lambda file, mode: full[mode[0]](file, mode), raising=False)
    with pytest.raises(OSError, match="No space left"):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    monkeypatch.undo()
    again = optuna.load_study(storage=open_storage(path), study_name=NAME)
    assert [trial.state for trial in again.trials].count(TrialState.COMPLETE) == 3
    again.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    whole = optuna.load_study(storage=open_storage(path), study_name=NAME)
    assert [trial.state for trial in whole.trials].count(TrialState.COMPLETE) == 5


@pytest.mark.parametrize("address", ["journal", "sqlite", "postgresql", "mysql", "redis", "grpc"], indirect=True)
def test_search_is_the_same_on_every_storage_and_when_it_is_opened_again(address: str) -> None:
    objective, sampler = searched("fd", seconds=0)
    alone = optuna.create_study(direction="maximize", sampler=sampler)
    alone.optimize(objective, n_trials=16)
    for total in (8, 16):
        study = optuna.create_study(
            study_name=NAME, storage=open_storage(address), load_if_exists=True, direction="maximize", sampler=sampler
        )
        assert recover(study) == Recovery((), (), ())
        study.optimize(objective, n_trials=remaining_trials(study, total))
    again = optuna.load_study(study_name=NAME, storage=open_storage(address))
    assert [trial.value for trial in again.trials] == [trial.value for trial in alone.trials]
    assert [trial.params for trial in again.trials] == [trial.params for trial in alone.trials]
    assert [trial.constraints for trial in again.trials] == [trial.constraints for trial in alone.trials]
    assert again.best_trial.number == alone.best_trial.number


@pytest.mark.parametrize("address", ["postgresql", "mysql"], indirect=True)
def test_search_goes_on_when_its_connections_are_dropped(address: str) -> None:
    objective, sampler = searched("fd")
    study = optuna.create_study(storage=open_storage(address), study_name=NAME, direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=10, callbacks=[lambda study, trial: drop_connections(address)])
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 10


@pytest.mark.parametrize("address", ["postgresql", "mysql"], indirect=True)
def test_storage_is_opened_though_the_connection_is_dropped_meanwhile(address: str) -> None:
    dropped = []

    def drop(connection: sqlalchemy.Connection, *call: Any) -> None:
        if not dropped:
            dropped.append(connection)
            drop_connections(address)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", drop)
    try:
        storage = open_storage(address)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", drop)
    assert dropped
    assert NAME not in optuna.get_all_study_names(storage)


def drop_connections(address: str) -> None:
    """Let a server drop all connections to a database, and wait until it has."""
    if address.startswith("postgresql"):
        others = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        drop = "select pg_terminate_backend({}, 5000)"
    else:
        others = "select id from information_schema.processlist where db = database() and id <> connection_id()"
        drop = "kill {}"
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        for (number,) in connection.execute(sqlalchemy.text(others)).all():
            connection.execute(sqlalchemy.text(drop.format(number)))


@pytest.mark.parametrize("address", ["sqlite", "postgresql", "mysql"], indirect=True)
def test_workers_that_find_a_database_empty_in_the_same_moment_all_open_it(address: str) -> None:
    processes = get_context("forkserver")
    with empty_database(address) as empty:
        together = processes.Barrier(3)
        workers = [processes.Process(target=open_together, args=(empty, together)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert optuna.get_all_study_names(open_storage(empty)) == []


@contextlib.contextmanager
def empty_database(address: str) -> Iterator[str]:
    """Make a database beside another for a while; a file of SQLite is empty as it is."""
    if address.startswith("sqlite"):
        yield address
        return
    engine = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    place, name = address.rpartition("/")[0], f"{NAME}_empty"
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"drop database if exists {name}"))
        connection.execute(sqlalchemy.text(f"create database {name}"))
    try:
        yield f"{place}/{name}"
    finally:
        gc.collect()  # open connections to a database keep it from being dropped
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"drop database {name}"))


def test_worker_elsewhere_is_dead_when_it_was_not_seen_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study()
    study.set_user_attr("softprune:schema", 1)
    elsewhere = running(study, {**this_worker(), "host": "another"})
    shown = running(study, {**this_worker(), "host": "another"})
    before_it_began = running(study, None)
    now = time.time()
    write_seen(shown, now + 500)
    assert recover(study).taken_up == ()
    monkeypatch.setattr(time, "time", lambda: now + 601)
    found = recover(study)
    assert found.taken_up == (elsewhere.number, before_it_began.number)
    assert found.unknown == (shown.number,)


def test_long_trials_show_that_their_worker_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(optuna_softprune.storage._lease, "BEAT_S", 0.05)
    monkeypatch.setattr(optuna_softprune.storage._lease, "_heart", None)
    objective, _ = searched("random", seconds=0.5)
    study = optuna.create_study(storage=open_storage(tmp_path / "slow.journal"), direction="maximize")
    study.optimize(objective, n_trials=1)
    begun = study.trials[0].datetime_start
    assert begun is not None
    assert seen_at(study.trials[0]) >= begun.timestamp() + 0.04


@pytest.mark.parametrize(("kind", "name"), [("journal", "SIGTERM"), ("sqlite", "SIGINT")])
def test_worker_that_is_told_to_end_gives_its_trial_up(tmp_path: Path, kind: str, name: str) -> None:
    storage = storage_in(tmp_path, kind)
    process = start(storage, 10_000)
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode != 0
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    interrupted = [trial for trial in study.trials if "softprune:interrupted" in trial.user_attrs]
    assert len(interrupted) <= 1  # none where the signal came between two trials
    recover(study, force=True)  # a trial that had only just been asked for does not say yet whose it is
    assert TrialState.RUNNING not in [trial.state for trial in study.trials]
    queued = [trial.system_attrs["fixed_params"] for trial in study.trials if trial.state == TrialState.WAITING]
    assert all(trial.params in queued for trial in interrupted if len(trial.params) == 2)
    assert sum(trial.state == TrialState.FAIL for trial in study.trials) <= 1


@pytest.mark.parametrize(
    ("event", "count"),
    [*(("after_cursor_execute", count) for count in (18, 27, 43)), *(("commit", count) for count in (4, 10, 16))],
)
def test_interrupted_call_of_sqlite_leaves_it_unlocked(
    tmp_path: Path, event: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_softprune.storage._open, "SQLITE_PATIENCE_S", 1)
    objective, sampler = searched("random", seconds=0)
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=2)
    calls = itertools.count(1)

    def interrupt(*call: Any) -> None:
        if next(calls) == count:
            raise KeyboardInterrupt

    sqlalchemy.event.listen(sqlalchemy.Engine, event, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            study.optimize(objective, n_trials=1)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, event, interrupt)
    assert study.trials[2].state == TrialState.FAIL
    assert study.trials[2].user_attrs["softprune:interrupted"] == "KeyboardInterrupt"


def test_interruption_does_not_cost_a_database_in_memory() -> None:
    objective, sampler = searched("random", interruption=KeyboardInterrupt)
    study = optuna.create_study(storage="sqlite:///:memory:", direction="maximize", sampler=sampler)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=5)
    assert [trial.state for trial in study.trials][:2] == [TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interrupted_trial_is_failed_with_the_reason_and_queued(interruption: type[BaseException]) -> None:
    objective, sampler = searched("random", interruption=interruption)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    with pytest.raises(interruption):
        study.optimize(objective, n_trials=5)
    *_, failed, queued = study.trials
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["softprune:interrupted"] == interruption.__name__
    assert queued.state == TrialState.WAITING
    assert queued.system_attrs["fixed_params"] == failed.params
    assert remaining_trials(study, 5) == 5 - len(study.get_trials(states=(TrialState.COMPLETE,)))


def test_places_that_cannot_be_opened_are_said(tmp_path: Path) -> None:
    for storage in (tmp_path / "no/where.journal", f"sqlite:///{tmp_path}/no/where.db"):
        with pytest.raises(StorageError, match=r"Expected the folder .*/no to exist: make it"):
            open_storage(storage)
    with pytest.raises(StorageError, match="is a folder"):
        open_storage(tmp_path)
    optuna.create_study(storage=f"sqlite:///{tmp_path}/search.db")
    with pytest.raises(StorageError, match=r"to be a journal file .* opened with `sqlite:///"):
        open_storage(tmp_path / "search.db")


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg2://me:secret@127.0.0.1:1/none", "redis://:secret@127.0.0.1:1", "nonsense://place"]
)
def test_database_that_cannot_be_reached_is_said_without_the_password(url: str) -> None:
    with pytest.raises(StorageError, match=r"Expected a storage at .* but it cannot be opened") as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_owner_is_written_by_the_objective_before_the_metric_runs(tmp_path: Path) -> None:
    storage = storage_in(tmp_path, "journal")
    process = start(storage, 3)
    process.communicate(timeout=60)
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    owners = [owner_of(trial) for trial in study.trials]
    assert not [
        key for trial in study.trials for key in trial.user_attrs if key in ("softprune:owner", "softprune:seen")
    ]
    assert {owner["pid"] for owner in owners} == {process.pid}
    assert owners[0]["host"] == this_worker()["host"]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_workers_that_recover_in_the_same_moment_do_so_once(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_storage(storage_in(tmp_path, kind)))
    trial = running(study, {**this_worker(), "start": "1"})
    stale = study.get_trials()
    assert recover(study).taken_up == (trial.number,)
    monkeypatch.setattr(study, "get_trials", lambda **_: stale)
    assert recover(study).taken_up == ()
    monkeypatch.undo()
    assert [trial.state for trial in study.trials].count(TrialState.WAITING) == 1


@pytest.mark.parametrize("kind", ["random", "fd", "grid"])
def test_bookkeeping_is_no_attribute_of_trials_that_a_dashboard_shows(kind: str, tmp_path: Path) -> None:
    objective, sampler = searched(kind, seconds=0)
    storage = open_storage(f"sqlite:///{tmp_path}/search.db")
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=4)
    for trial in study.trials:
        assert owner_of(trial) == this_worker()
        shown = {name.removeprefix("softprune:") for name in trial.user_attrs}
        assert {"sparsity", "parameters", "macs", "feasible"} <= shown
        assert shown <= {"sparsity", "parameters", "macs", "feasible", "role", "iteration", "candidate"}
