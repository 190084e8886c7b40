"""Open a storage by its address, so that it outlives crashes of workers and servers."""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning
from optuna.storages import GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalRedisBackend

from optuna_softprune._errors import StorageError
from optuna_softprune.storage._journal import expect_folder, open_journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage

# What SQLite waits for another worker's write. Its own 5 s are too short for some file systems.
SQLITE_PATIENCE_S = 60
# How long a database is tried that others make tables in or that drops its connection, and the longest pause between.
TRIES_S = 60.0
PAUSE_S = 2.0
TABLES_MADE_TWICE = ("already exists", "unique constraint", "duplicate")
GRPC_PORT = 13000  # Optuna's own


def open_storage(url_or_path: str | os.PathLike[str]) -> BaseStorage:
    """Open an Optuna storage.

    | address | storage | for |
    | --- | --- | --- |
    | `prune.journal`, any path | journal file | one machine, the fastest |
    | `sqlite:///prune.db` | SQLite | one machine, few workers |
    | `postgresql+psycopg2://user@host/database` | PostgreSQL | many machines |
    | `mysql+pymysql://user@host/database` | MySQL, MariaDB | many machines |
    | `redis://host:6379/0` | journal in Redis | many machines, short searches: it lies in memory |
    | `grpc://host:13000` | Optuna's gRPC proxy of a database | hundreds of workers |

    A journal whose last line a crash left torn is cut back to its last whole line, with a copy kept beside it; that
    line was not yet a result. A lock older than 30 s is removed. A connection to a server that broke is made anew.

    Raises:
        TypeError: If `url_or_path` is neither.
        StorageError: If the folder is not there, the server cannot be reached, a driver is missing, or the file is no
            journal.
    """
    if not isinstance(url_or_path, (str, os.PathLike)):
        raise TypeError(f"Expected `url_or_path` to be an address or a path, but got {url_or_path!r}.")
    name = os.fspath(url_or_path)
    if "://" not in name:
        return open_journal(Path(name))
    if name.startswith("sqlite:///"):
        expect_folder(Path(name.removeprefix("sqlite:///")))
    openers: dict[str, Callable[[str], BaseStorage]] = {
        "redis": _redis, "rediss": _redis, "grpc": _proxy, "sqlite": _sqlite
    }  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return get_storage(openers.get(name.partition("://")[0], _database)(name))  # databases: read once
    except ImportError as error:
        raise StorageError(
            f"Expected a driver for {_without_password(name)}, but it is not installed ({error}): "
            'pip install "optuna-softprune[postgresql]", "[mysql]", "[redis]" or "[grpc]".'
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageError(
            f"Expected a storage at {_without_password(name)}, but it cannot be opened: {reason}. Is the server "
            "running, and are name, user and password right?"
        ) from error


def _database(url: str) -> RDBStorage:
    # A connection is tried before it is used: after a restart of the server the search goes on.
    return _with_tables(url, {"pool_pre_ping": True})


def _sqlite(url: str) -> RDBStorage:
    return _with_tables(url, {"connect_args": {"timeout": SQLITE_PATIENCE_S}})


def _with_tables(url: str, settings: dict[str, Any]) -> RDBStorage:
    """Open a database, again if the connection was dropped meanwhile or other workers make its tables just now."""
    from sqlalchemy.exc import DBAPIError

    deadline = time.monotonic() + TRIES_S
    while True:
        try:
            return RDBStorage(url, engine_kwargs=settings)
        except Exception as error:
            made_twice = any(words in str(error).lower() for words in TABLES_MADE_TWICE)
            dropped = isinstance(error, DBAPIError) and error.connection_invalidated
            if not (made_twice or dropped) or time.monotonic() > deadline:
                raise
        time.sleep(random.SystemRandom().uniform(0, PAUSE_S))  # not what a script has seeded


def _redis(url: str) -> JournalStorage:
    return JournalStorage(JournalRedisBackend(url))


def _proxy(url: str) -> GrpcStorageProxy:
    place = urlsplit(url)
    proxy: Any = GrpcStorageProxy(host=place.hostname or "localhost", port=place.port or GRPC_PORT)
    proxy.wait_server_ready(timeout=10)
    opened: GrpcStorageProxy = proxy
    return opened


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}"
