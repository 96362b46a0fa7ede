"""`SqlLightningStore`: the durable store, the default of `Trainer.fit`. One SQLite file holds a whole run.

What was answered survives `kill -9` of the process (not a power cut in the same second: the log is flushed to disk at
checkpoints only). Everything is kept; there is no retention. One process at a time has the file open as a store, since
waits and the queue's notifications are in its memory; reading it with other tools meanwhile is fine.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from .home import LedgerStore, Operation, R
from .sqlite_file import SqliteFile
from .writer import Writer


class SqlLightningStore(LedgerStore):
    """A store in a SQLite file.

    Args:
        url_or_path: Path of the file (made if it is not there), or a URL `sqlite:///<path>`.
        lock_timeout: Seconds that an operation waits while another program holds the file's write lock.

    Raises:
        RuntimeError: a live process has the file open as a store.
        ValueError: the URL is not one of SQLite, or the file is not a store of this version.
        FileNotFoundError: the file's directory doesn't exist.
    """

    def __init__(self, url_or_path: str | os.PathLike[str], *, lock_timeout: float = 30.0) -> None:
        super().__init__()
        self.path = _path_of(url_or_path)
        self._pid = os.getpid()
        file = SqliteFile(self.path, lock_timeout)
        self._writer = Writer(file.ledger, file, self._waits.notify)

    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the store of `{self.path}` was opened in process {self._pid} and can't be used in a fork of it; "
                "share it by a server"
            )
        try:
            return await self._writer.run(operation, undo)
        except sqlite3.Error as error:
            error.add_note(f"in store file `{self.path}`; this operation changed nothing and may be tried again")
            raise

    async def close(self) -> None:
        await self._writer.close()
        self._waits.wake_all()


def _path_of(url_or_path: str | os.PathLike[str]) -> Path:
    text = os.fspath(url_or_path)
    if "://" not in text:
        database: str | None = text
    else:
        try:
            url = make_url(text)
        except ArgumentError as error:
            raise ValueError("`url_or_path` is no database URL; give a path or `sqlite:///<path>`") from error
        if url.get_backend_name() != "sqlite":
            raise ValueError(
                f"`url_or_path` names the database {url.get_backend_name()!r}; "
                "this store opens SQLite files: give a path or `sqlite:///<path>`"
            )
        database = url.database
    if not database or database == ":memory:":
        raise ValueError(f"`url_or_path` {text!r} names no file; give a path, or use `InMemoryLightningStore`")
    return Path(database)
