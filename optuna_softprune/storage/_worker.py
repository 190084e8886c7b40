"""Who evaluates a trial: enough to know later whether that process still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_worker() -> dict[str, str | int]:
    """Return host, boot, process namespace, process and its start time."""
    return {**_machine(), "pid": os.getpid(), "start": _start_time(os.getpid()) or ""}


def is_here(owner: dict[str, str | int]) -> bool:
    """Whether the worker ran on this machine since it was started, in processes that are seen from here."""
    return all(owner.get(key) == value for key, value in _machine().items())


def lives(owner: dict[str, str | int]) -> bool:
    """Whether the process of a worker that `is_here` still runs."""
    pid = int(owner.get("pid", 0))
    start = _start_time(pid)
    if start is not None:
        return start == owner.get("start")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self/stat").exists()


def _machine() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the machine's start; None if there is none (or no /proc)."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]
