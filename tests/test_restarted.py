"""A server that is stopped and started again under a running search."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState
from searching import NAME
from test_killed import complete, values, worker

from optuna_softprune import StorageError, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """A server of the test's own, with its data in a folder."""

    def __init__(
        self, address: str, command: list[str], *, user: str | None = None, stop: int = signal.SIGTERM
    ) -> None:
        self.address = address
        self._command, self._stop = command, stop
        self._user = user if os.geteuid() == 0 else None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, user=self._user, **QUIET)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                open_storage(self.address)
            except StorageError:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(self.address)

    def stop(self) -> None:
        self._process.send_signal(self._stop)
        self._process.wait(30)


def postgresql(folder: Path) -> Server:
    port = free_port()
    binaries = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), Path("/usr/bin"))
    if not (binaries / "initdb").exists():
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    initdb = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust"]
    subprocess.run(initdb, check=True, user=user, cwd=folder, **QUIET)
    command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    return Server(
        f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres", command, user="postgres", stop=signal.SIGINT
    )


def mysql(folder: Path) -> Server:
    port = free_port()
    if shutil.which("mariadbd") is None:
        pytest.skip("MariaDB is not installed")
    data = f"--datadir={folder / 'data'}"
    install = ["mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, **QUIET)
    command = ["mariadbd", "--no-defaults", data, f"--port={port}", f"--socket={folder / 's'}", "--user=root"]
    return Server(f"mysql+pymysql://root@127.0.0.1:{port}/test", command)


def redis(folder: Path) -> Server:
    port = free_port()
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed")
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
    return Server(f"redis://127.0.0.1:{port}/0", [*command, "--appendfsync", "always"])


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    folder = Path("/tmp") / f"softprune-{os.getpid()}-{request.node.callspec.id}"
    folder.mkdir()
    make: Callable[[Path], Server] = request.param
    found = make(folder)
    found.start()
    yield found
    found.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("server", [postgresql, mysql, redis], indirect=True)
def test_grid_is_whole_when_its_server_is_restarted(server: Server) -> None:
    running = [worker(server.address, "grid", 0.2) for _ in range(2)]
    for _ in range(3):
        before = len(values(server.address))
        while len(values(server.address)) < before + 8:
            time.sleep(0.2)
            running = [each if each.is_alive() else worker(server.address, "grid", 0.2) for each in running]
        known = values(server.address)
        server.stop()
        time.sleep(0.5)
        server.start()
        now = values(server.address)
        assert {number: now.get(number) for number in known} == known
    print(f"{sum(not each.is_alive() for each in running)} of 2 workers ended with the last restart")
    for each in [*running, None]:
        last = each or worker(server.address, "grid", 0)
        last.join(120)
        assert not last.is_alive()
    assert last.exitcode == 0
    study = optuna.load_study(study_name=NAME, storage=open_storage(server.address))
    counts = Counter(complete(study))
    assert set(counts.values()) == {1}
    assert len(counts) == study.user_attrs["points"]
    assert not study.get_trials(states=(TrialState.RUNNING,))
