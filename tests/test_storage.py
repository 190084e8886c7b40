"""Storages that survive crashes: opening, recovering, counting what is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searching import NAME

from optuna_softprune import StorageError, open_storage, recover, remaining_trials
from optuna_softprune.storage import FAILURE, OWNER, this_worker

SCRIPT = Path(__file__).parent / "searching.py"
TOTAL = 60


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


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_killed_search_loses_nothing_and_ends_with_the_total_asked_for(tmp_path: Path, kind: str) -> None:
    storage = storage_in(tmp_path, kind)
    moments = random.Random(0)
    known: dict[int, Any] = {}
    for _ in range(3):
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
        trial.set_user_attr(OWNER, owner)
    return trial


def test_recover_fails_what_dead_workers_left_and_queues_it_again() -> None:
    study = optuna.create_study()
    mine = running(study, this_worker())
    dead = running(study, {**this_worker(), "pid": 2**22 + 1})
    reused = running(study, {**this_worker(), "start": "1"})
    elsewhere = running(study, {**this_worker(), "host": "another"})
    rebooted = running(study, {**this_worker(), "boot": "before"})
    unknown = running(study, None)
    assert recover(study) == [dead.number, reused.number]
    states = {trial.number: trial.state for trial in study.trials}
    for trial in (mine, elsewhere, rebooted, unknown):
        assert states[trial.number] == TrialState.RUNNING
    queued = [trial for trial in study.trials if trial.state == TrialState.WAITING]
    assert [trial.system_attrs["fixed_params"] for trial in queued] == [dead.params, reused.params]
    assert recover(study) == []
    assert recover(study, force=True) == [mine.number, elsewhere.number, rebooted.number, unknown.number]


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


def test_dead_lock_of_a_journal_does_not_stall_for_long(tmp_path: Path) -> None:
    path = tmp_path / "locked.journal"
    optuna.create_study(storage=open_storage(path), study_name=NAME)
    os.symlink(path, f"{path}.lock")
    begin = time.monotonic()
    study = optuna.load_study(storage=open_storage(path), study_name=NAME)
    study.optimize(lambda trial: 0.0, n_trials=1)
    assert time.monotonic() - begin < 20


def test_places_that_cannot_be_opened_are_said(tmp_path: Path) -> None:
    for storage in (tmp_path / "no/where.journal", f"sqlite:///{tmp_path}/no/where.db"):
        with pytest.raises(StorageError, match=r"Expected the folder .*/no to exist: make it"):
            open_storage(storage)
    with pytest.raises(StorageError, match="is a folder"):
        open_storage(tmp_path)
    optuna.create_study(storage=f"sqlite:///{tmp_path}/search.db")
    with pytest.raises(StorageError, match=r"to be a journal file .* opened with `sqlite:///"):
        open_storage(tmp_path / "search.db")


@pytest.mark.parametrize("url", ["postgresql://me:secret@127.0.0.1:1/none", "nonsense://place"])
def test_database_that_cannot_be_reached_is_said_without_the_password(url: str) -> None:
    with pytest.raises(StorageError, match=r"Expected a database at .* but it cannot be opened") as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_owner_is_written_by_the_objective_before_the_metric_runs(tmp_path: Path) -> None:
    storage = storage_in(tmp_path, "journal")
    process = start(storage, 3)
    process.communicate(timeout=60)
    study = optuna.load_study(study_name=NAME, storage=open_storage(storage))
    owners = [trial.user_attrs[OWNER] for trial in study.trials]
    assert {owner["pid"] for owner in owners} == {process.pid}
    assert owners[0]["host"] == this_worker()["host"]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_workers_that_recover_in_the_same_moment_do_so_once(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_storage(storage_in(tmp_path, kind)))
    trial = running(study, {**this_worker(), "start": "1"})
    stale = study.get_trials()
    assert recover(study) == [trial.number]
    monkeypatch.setattr(study, "get_trials", lambda **_: stale)
    assert recover(study) == []
    monkeypatch.undo()
    assert [trial.state for trial in study.trials].count(TrialState.WAITING) == 1
