"""Open a storage so that what a crash left behind does no harm."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from optuna_softprune._errors import StorageError

# A journal's lock is held for one write. After this long its owner is dead, not slow; Optuna's default is 30.
LOCK_GRACE_S = 5


def open_storage(url_or_path: str | os.PathLike[str]) -> BaseStorage:
    """Open an Optuna storage: a database by its URL, anything else is the path of a journal file.

    One machine: a journal file is the fastest. Many machines: PostgreSQL or MySQL. A journal whose last line a crash
    left torn is cut back to its last whole line first; that line was not yet a result.

    Raises:
        StorageError: If the folder is not there, the database cannot be reached, or the file is no journal.
    """
    name = os.fspath(url_or_path)
    if "://" in name:
        return _open_database(name)
    return _open_journal(Path(name))


def _open_database(url: str) -> RDBStorage:
    if url.startswith("sqlite:///"):
        _expect_folder(Path(url.removeprefix("sqlite:///")))
    try:
        return RDBStorage(url)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageError(
            f"Expected a database at {_without_password(url)}, but it cannot be opened: {reason}. Is the server "
            "running, and are name, user and password right?"
        ) from error


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}"


def _open_journal(path: Path) -> JournalStorage:
    _expect_folder(path)
    if path.is_dir():
        raise StorageError(f"Expected the path of a journal file, but {path} is a folder.")
    lock = JournalFileSymlinkLock(str(path), grace_period=LOCK_GRACE_S)
    if path.exists():
        _expect_journal(path)
        lock.acquire()
        try:
            _cut_torn_line(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _expect_folder(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StorageError(f"Expected the folder {folder} to exist: make it, or name another place for the storage.")


def _expect_journal(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(1)
    if start not in (b"", b"{"):
        raise StorageError(
            f"Expected {path} to be a journal file of Optuna, but it is something else. A SQLite file is opened with "
            f"`sqlite:///{path}`."
        )


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        step, kept = 1 << 16, 0
        for stop in range(end, 0, -step):
            start = max(stop - step, 0)
            file.seek(start)
            newline = file.read(stop - start).rfind(b"\n")
            if newline >= 0:
                kept = start + newline + 1
                break
        if kept < end:
            optuna.logging.get_logger("optuna_softprune").warning(
                f"{path} ended in a torn line of {end - kept} bytes, left by a crash: it was cut off."
            )
            file.truncate(kept)
