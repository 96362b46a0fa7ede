"""`SqlLightningStore`: the durable store, in SQLite or PostgreSQL.

SQLite: one file, one process, the default of `Trainer.fit`. PostgreSQL: a database that several servers share.

SQLite: what was answered survives `kill -9` of the process (not a power cut in the same second: the log is flushed to
disk at checkpoints only). One process at a time has the file open as a store, since waits and the queue's notifications
are in its memory; reading it with other tools meanwhile is fine.

PostgreSQL: what was answered is committed there, and as safe as the server's settings make it. While the database is
gone, operations wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from agentlightning.types import ConfigError

from .clock import Clock
from .home import LedgerStore, Operation, R
from .sqlite_file import SqliteFile
from .writer import Writer

if TYPE_CHECKING:
    from .postgres import PostgresDatabase


class SqlLightningStore(LedgerStore):
    """A store in a SQLite file or a PostgreSQL database.

    Args:
        url_or_path: Path of a SQLite file (made if it is not there), a URL `sqlite:///<path>`, or
            `postgresql://user:password@host/database`. PostgreSQL's tables are made in the first schema of the
            `search_path`; `?options=-csearch_path%3D<schema>` names another.
        lock_timeout: SQLite: seconds that an operation waits while another program holds the file's write lock.
        reconnect_seconds: PostgreSQL: how long operations wait for a database that is gone to come back.
        retention: How many ended rollouts are kept, with their attempts and spans; `None`: all. What is waited for is
            kept, but a server knows only of its own waits: where several share a database, give more than any of them
            waits for at once.
        scan_interval: Seconds between the scans for overdue attempts.
        worker_timeout: Seconds after which a worker that has sent heartbeats is taken for gone; `None`: never.
        scan_debounce_seconds: Upstream's name for `scan_interval`.

    Raises:
        StoreInUseError: a live process has the SQLite file open as a store.
        StoreUnavailableError: the PostgreSQL database can't be reached, or refuses.
        ValueError: the URL is of neither, or what is there is not a store of this version.
        ConfigError: the driver of PostgreSQL is not installed.
        FileNotFoundError: the file's directory doesn't exist.
    """

    def __init__(
        self,
        url_or_path: str | os.PathLike[str],
        *,
        lock_timeout: float = 30.0,
        reconnect_seconds: float = 60.0,
        retention: int | None = None,
        scan_interval: float = 1.0,
        worker_timeout: float | None = 60.0,
        scan_debounce_seconds: float | None = None,
    ) -> None:
        super().__init__(
            retention=retention,
            scan_interval=scan_interval,
            worker_timeout=worker_timeout,
            scan_debounce_seconds=scan_debounce_seconds,
        )
        self._pid = os.getpid()
        target = _target(url_or_path)
        self.path = target if isinstance(target, Path) else None
        """Of the SQLite file."""
        self._database = (
            SqliteFile(target, lock_timeout)
            if isinstance(target, Path)
            else _postgres(target, reconnect_seconds, self._waits)
        )
        self._set_clock(Clock(self._database.now()))
        self._writer = Writer(self._database, self._waits.notify)
        self._watch()

    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the store of {self._database.where} was opened in process {self._pid} and can't be used in a fork of "
                "it; share it by a server"
            )
        try:
            return await self._writer.run(operation, undo)
        except self._database.errors as error:
            # A new one for each caller: several may wait for what one failure undid.
            explained = self._database.explained(error)
            if explained is error:
                raise
            raise explained from error

    async def scan(self) -> None:
        await super().scan()
        if isinstance(self._database, SqliteFile):
            self._database.checkpoint()

    async def close(self) -> None:
        await self._watchdog.close()
        await self._writer.close()
        self._waits.wake_all()


def _target(url_or_path: str | os.PathLike[str]) -> Path | URL:
    """The SQLite file, or the URL of a PostgreSQL database."""
    text = os.fspath(url_or_path)
    if "://" not in text:
        database: str | None = text
    else:
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            # Not as its cause either, it may hold the password.
            raise ValueError(
                "`url_or_path` is no database URL; give a path, `sqlite:///<path>` or `postgresql://...`"
            ) from None
        if url.get_backend_name() in ("postgresql", "postgres"):
            if "@" in (url.host or ""):
                raise ValueError("`url_or_path` has an `@` in its password; write it as `%40`")
            return url
        if url.get_backend_name() != "sqlite":
            raise ValueError(
                f"`url_or_path` names the database {url.get_backend_name()!r}; "
                "give a path, `sqlite:///<path>` or `postgresql://...`"
            )
        database = url.database
    if not database or database == ":memory:":
        raise ValueError(f"`url_or_path` {text!r} names no file; give a path, or use `InMemoryLightningStore`")
    return Path(database)


def _postgres(url: URL, *arguments: Any) -> PostgresDatabase:
    try:
        from .postgres import PostgresDatabase
    except ImportError as error:
        raise ConfigError(
            f"a store in PostgreSQL needs a driver ({error}); install `agentlightning[postgres]`"
        ) from error
    return PostgresDatabase(url, *arguments)
