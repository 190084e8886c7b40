"""A journal file, with what a crash may have left in it put right before it is opened."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from optuna_softprune._errors import StorageError
from optuna_softprune._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows: a dead lock is left to Optuna, which waits for the grace to pass
    fcntl = None  # type: ignore[assignment]

# A lock is held for one write; Optuna takes it away after this long. A shorter time would take away that of a worker
# that was suspended in the middle of a write.
LOCK_GRACE_S = 30
# How often a worker looks whether it may write, and how long it waits for the advisory lock of one that does not write.
POLL_S, BEACON_S = 0.001, 0.01


def open_journal(path: Path) -> JournalStorage:
    """Open a journal; a dead lock is removed, and a torn last line is cut off and kept beside it.

    Raises:
        StorageError: If the folder is not there, or the file is no journal.
    """
    expect_folder(path)
    if path.is_dir():
        raise StorageError(f"Expected the path of a journal file, but {path} is a folder.")
    lock = _RepairingLock(path)
    if path.exists():
        _expect_journal(path)
        _remove_dead_lock(path)
        if _is_torn(path):
            lock.acquire()
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


class _RepairingLock(JournalFileSymlinkLock):
    """Optuna's lock; who gets it finds whole lines, and a killed owner's is had at once.

    - A worker that was killed, or whose disk was full, in the middle of a write leaves a torn line behind; nothing is
      ever written behind half a line. A line that is being written is not torn: its worker has the lock.
    - The lock is a symlink. Beside it the owner keeps an advisory lock on the journal (`flock`), which the kernel gives
      back when a process dies: who has that while a symlink of ours is there knows that its owner is dead. Symlinks of
      ours lead to `./name`; others, as the dashboard's, keep their 30 s.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path.absolute()), grace_period=LOCK_GRACE_S)
        self._path, self._link = path, Path(f"{path.absolute()}.lock")
        self._beacon: BinaryIO | None = None

    def acquire(self) -> bool:
        beacon = self._kept_beacon()
        try:
            if beacon is not None:
                self._remove_if_ours()
            self._lock_target_file = str(self._path.absolute()) if beacon is None else f"./{self._path.name}"
            super().acquire()
        except BaseException:
            _close(beacon)
            raise
        self._beacon = beacon
        try:
            if self._path.exists() and _is_torn(self._path):
                _cut_torn_line(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        try:
            super().release()
        finally:
            _close(self._beacon)
            self._beacon = None

    def _kept_beacon(self) -> BinaryIO | None:
        """Return the journal with the advisory lock on it; None if the owner of the symlink keeps it for too long."""
        if fcntl is None or not self._path.exists():
            return None
        file = self._path.open("rb")
        seen, since = None, time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                now, held = time.monotonic(), _identity(self._link)
                if held != seen:
                    seen, since = held, now
                if now - since > (LOCK_GRACE_S if held else BEACON_S):
                    file.close()
                    return None
                time.sleep(POLL_S)
            else:
                return file

    def _remove_if_ours(self) -> None:
        with contextlib.suppress(OSError):  # there is none
            if os.readlink(self._link) == f"./{self._path.name}":
                self._link.unlink()
                LOGGER.warning(f"{self._link} was held by a worker that was killed: removed.")


def _close(beacon: BinaryIO | None) -> None:
    if beacon is not None:
        fcntl.flock(beacon, fcntl.LOCK_UN)  # at once, also where a forked process has the file open
        beacon.close()


def _identity(lock: Path) -> tuple[int, int] | None:
    """Return what tells a lock from another at the same place; None if there is none."""
    try:
        held = lock.lstat()
    except OSError:
        return None
    return held.st_ino, held.st_mtime_ns


def expect_folder(path: Path) -> None:
    """Raise unless the folder of a file is there."""
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


def _remove_dead_lock(path: Path) -> None:
    """Remove a lock that is older than the grace, instead of waiting for as long again."""
    lock = Path(f"{path}.lock")
    found = _old(path, lock)
    if found is None:
        return
    with _alone(path) as alone:
        if alone and _old(path, lock) == found:
            lock.unlink(missing_ok=True)
            LOGGER.warning(f"{lock} was held for more than {LOCK_GRACE_S} s, by a worker that is dead: removed.")


def _old(path: Path, lock: Path) -> tuple[int, int] | None:
    """Return what identifies a lock that is older than the grace, or None."""
    held = _identity(lock)
    if held is None:
        return None
    age = time.time() - max(held[1] / 1e9, path.stat().st_mtime)
    return held if age > LOCK_GRACE_S else None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Keep others from removing locks too: who found the same dead lock a moment ago must not remove a living one."""
    if fcntl is None:
        yield False
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True  # closing the file gives the lock back


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        return file.read(1) not in (b"", b"\n")


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
        if kept == end:
            return
        file.seek(kept)
        copy = Path(f"{path}.torn-{kept}")
        copy.write_bytes(file.read())
        file.truncate(kept)
    LOGGER.warning(
        f"{path} ended in a torn line of {end - kept} bytes, left by a crash: it was cut off, a copy is in {copy}."
    )
