from __future__ import annotations

import contextlib
import fcntl
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
import torch
from hypothesis import settings
from searching import NAME

from optuna_softprune import StorageError, open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

# The same examples every time: what a test finds on one machine it finds on all.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Servers that tests may use: kind of storage -> environment variable with its address. The proxy is started here.
SERVERS = {
    "postgresql": "SOFTPRUNE_TEST_POSTGRESQL",
    "mysql": "SOFTPRUNE_TEST_MYSQL",
    "redis": "SOFTPRUNE_TEST_REDIS",
    "grpc": "SOFTPRUNE_TEST_POSTGRESQL",
}
PROXY = """
import optuna, optuna_softprune
optuna.storages.run_grpc_proxy_server(optuna_softprune.open_storage({url!r}), host="127.0.0.1", port={port})
"""
PROXY_PORTS = (20_000, 32_000)  # below those that connections of other tests are given
PROXY_STARTS = 3
PROXY_PATIENCE_S = 40


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Capture what goes to Optuna's handler, which is there for all that this package says."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    yield caplog
    optuna.logging.disable_propagation()
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the address of a storage without a study of the tests' name, and leave none there."""
    kind = request.param
    if kind in ("journal", "sqlite"):
        yield str(tmp_path / "study.journal") if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
        return
    found = os.environ.get(SERVERS[kind])
    if found is None:
        pytest.skip(f"{SERVERS[kind]} has no address of a server")
    with alone(SERVERS[kind]):
        _forget(found)
        if kind == "grpc":
            with proxy_of(found, tmp_path / "proxy.log") as place:
                yield place
        else:
            yield found
        _forget(found)


@contextlib.contextmanager
def alone(server: str) -> Iterator[None]:
    """Let one test at a time use a server, of all processes of a parallel run: some drop all of its connections."""
    with (Path(tempfile.gettempdir()) / f"{server}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def proxy_of(url: str, log: Path) -> Iterator[str]:
    """Start Optuna's proxy of a database in a process of its own; one that does not come up is started again."""
    for _ in range(PROXY_STARTS):
        port = random.randint(*PROXY_PORTS)
        with log.open("w") as output:
            proxy = subprocess.Popen([sys.executable, "-c", PROXY.format(url=url, port=port)], stderr=output)
        try:
            if _answers(proxy, f"grpc://127.0.0.1:{port}"):
                yield f"grpc://127.0.0.1:{port}"
                return
        finally:
            proxy.terminate()
            proxy.wait()
    pytest.fail(f"Optuna's proxy of {url} did not come up:\n{log.read_text()}")


def _answers(proxy: subprocess.Popen[bytes], address: str) -> bool:
    deadline = time.monotonic() + PROXY_PATIENCE_S
    while proxy.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(StorageError):
            open_storage(address)
            return True
    return False


def _forget(address: str) -> None:
    storage = open_storage(address)
    if NAME in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=NAME, storage=storage)
