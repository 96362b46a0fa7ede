"""`SqliteReader`: looks into a SQLite store while another process works with it, or none does.

It has the `query_*` and `get_*` methods of the store; it takes no lock and what would write raises. Called by
`agl query`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.dialects import sqlite

from agentlightning.types import ConfigError

from .home import LedgerStore, Operation, R
from .schema import SCHEMA_VERSION
from .sql_ledger import SqlLedger


class SqliteReader(LedgerStore):
    """A SQLite store, to be read only. Each call sees what was committed before it.

    Args:
        path: The file.

    Raises:
        ConfigError: it is not there, is no store, or a store of another version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ConfigError(f"there is no store file `{path}`; give a SQLite file, a run directory, or a URL")
        try:
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            version = self._connection.execute("SELECT value FROM store_info WHERE name = 'schema_version'").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"`{path}` can't be read as a store: {error}") from error
        if version != (str(SCHEMA_VERSION),):
            raise ConfigError(
                f"`{path}` has schema version {version and version[0]}, this release reads {SCHEMA_VERSION}; "
                "open it once with `agl store`, which brings an older one up to date"
            )
        self._ledger = SqlLedger(self._connection.cursor(), sqlite.dialect())
        self._lock = asyncio.Lock()

    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        async with self._lock:
            return await asyncio.to_thread(self._read, operation)

    def _read(self, operation: Operation[R]) -> R:
        self._connection.execute("BEGIN")  # all of the operation sees one state
        try:
            return operation(self._ledger)
        finally:
            self._connection.rollback()

    async def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
