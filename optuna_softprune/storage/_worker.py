"""Who evaluates a trial: enough to know later whether that process still lives."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

MACHINE = ("host", "boot", "namespace")


def this_worker() -> dict[str, str | int]:
    """Return host, boot, process namespace, process and its start time."""
    return dict(_worker(os.getpid()))


def is_here(owner: dict[str, str | int]) -> bool:
    """Whether the worker ran on this machine since it was started, in processes that are seen from here."""
    return all(owner.get(key) == value for key, value in _worker(os.getpid()).items() if key in MACHINE)


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


@functools.lru_cache(maxsize=1)  # a forked process is another one
def _worker(pid: int) -> dict[str, str | int]:
    """Return what this process is known by; read once: it is a part of what a short trial takes."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": pid,
        "start": _start_time(pid) or "",
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
