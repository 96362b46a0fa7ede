"""`SqliteFile`: one SQLite database file, opened for one process. `sql` opens it, `writer` uses it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from agentlightning.types import StoreInUseError, StoreUnavailableError

from .ledger import Effects
from .schema import MIGRATIONS, SCHEMA_VERSION, metadata
from .sql_ledger import SqlLedger

OLDEST_SQLITE: Final = (3, 35, 0)
"""The first with RETURNING."""
PAGE_BYTES: Final = 16384
"""Of new files. Three spans of 5 kB fill one, so the log grows by little more than their size: a fifth more of them a
second than with pages of 8192, which hold one each. Small operations write whole pages too: starting a rollout takes a
tenth longer."""
CHECKPOINT_PAGES: Final = 4_000
"""Pages (of 16 KiB) that the log may hold before the writer itself brings them into the database, during which nothing
is answered. `checkpoint` has done most of that by then."""
PRAGMAS: Final = (
    f"page_size={PAGE_BYTES}",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    f"wal_autocheckpoint={CHECKPOINT_PAGES}",
)

OUTSIDE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
}
"""Kinds of errors (the low byte of their code) that the operation is not to blame for: the disk is full, or fails;
another program holds a lock."""


class SqliteFile:
    """A connection, its transactions and its lock.

    A file of an older version is brought up to date.

    Args:
        path: The database; made if it is not there.
        lock_timeout: Seconds to wait for other processes that read or write the file at the same time (a shell, a
            backup) before an operation fails.

    Raises:
        RuntimeError: a store has the file open, in this or another process.
        ValueError: the file is no database, or of another version.
        FileNotFoundError: there is no such directory.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path, lock_timeout: float) -> None:
        self.where = f"store file `{path}`"
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise RuntimeError(f"Python's SQLite is {sqlite3.sqlite_version}; the store needs 3.35 or newer")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the store's directory `{path.parent}` doesn't exist; make it, or mend the path")
        self._lock = _lock(path)
        try:
            self._connection = _connect(path, lock_timeout)
            self.ledger = self._open(path)
            self._keeper = _connect(path, lock_timeout)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, path: Path) -> SqlLedger:
        cursor = self._connection.cursor()
        try:
            for pragma in PRAGMAS:
                cursor.execute(f"PRAGMA {pragma}")
            ledger = SqlLedger(cursor, sqlite.dialect())
            self._begin()
            version = _make_tables(cursor)
            self.commit(Effects(), wrote=True)
        except sqlite3.OperationalError:
            self._connection.close()
            raise
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(f"store file `{path}` is no SQLite database ({error}); give another path") from error
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise ValueError(
                f"store file `{path}` has schema version {version}, this release reads {SCHEMA_VERSION} and older; "
                "open it with the release that wrote it, or give another path"
            )
        return ledger

    def now(self) -> None:
        """The machine's clock will do."""

    def begin(self, *, patient: bool) -> None:
        try:
            self._begin()
        except sqlite3.Error as error:
            # For all of the group: one after the other would wait for the same lock as long again.
            raise self.explained(error) from error

    def _begin(self) -> None:
        # At once for writing: a transaction that begins as a reader can't always become a writer.
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self, effects: Effects, *, wrote: bool) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def checkpoint(self) -> None:
        """Bring what the log holds into the database, beside the writer. Called by one thread at a time."""
        self._keeper.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def passing(self, error: BaseException) -> bool:
        # Nobody else writes: what fails, fails again.
        return False

    def lost(self) -> bool:
        return False

    def explained(self, error: Exception) -> Exception:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTSIDE:
            return StoreUnavailableError(f"{self.where}: {error}; nothing was changed, try again when that is mended")
        error.add_note(f"in {self.where}; this operation changed nothing")
        return error

    def close(self) -> None:
        self._keeper.close()
        self._connection.close()
        self._lock.close()


def _make_tables(cursor: sqlite3.Cursor) -> int:
    """Bring the tables up to this release, in the transaction that is open; the version after that."""
    found = cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'store_info'").fetchone()
    version = SCHEMA_VERSION
    if found != (0,):
        ((text,),) = cursor.execute("SELECT value FROM store_info WHERE name = 'schema_version'").fetchall()
        version = int(text)
        while version in MIGRATIONS:
            for statement in MIGRATIONS[version]:
                cursor.execute(statement)
            version += 1
    if version == SCHEMA_VERSION:
        dialect = sqlite.dialect()
        for table in metadata.sorted_tables:
            cursor.execute(str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)))
            for index in table.indexes:
                cursor.execute(str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)))
        cursor.execute("INSERT OR REPLACE INTO store_info VALUES ('schema_version', ?)", (str(version),))
    return version


def _connect(path: Path, lock_timeout: float) -> sqlite3.Connection:
    # Opened here, used by the writer thread; transactions are begun by hand.
    return sqlite3.connect(
        path, timeout=lock_timeout, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _lock(path: Path) -> sqlite3.Connection:
    """Hold `<path>.lock` until closed, or until the process is gone, whichever way it goes.

    The lock is a transaction that is left open on a database of its own: SQLite's locks work on every platform, within
    one process too, and are not inherited by `fork`. The file says who holds it.
    """
    path = path.resolve()  # one lock for a file, whichever link it is opened by
    lock_path = path.with_name(path.name + ".lock")
    lock = sqlite3.connect(lock_path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA synchronous=OFF")
        lock.execute("BEGIN IMMEDIATE")
        lock.execute("CREATE TABLE IF NOT EXISTS holder (pid INTEGER)")
        lock.execute("DELETE FROM holder")
        lock.execute("INSERT INTO holder VALUES (?)", (os.getpid(),))
        lock.execute("COMMIT")
        lock.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        holder = _holder(lock)
        lock.close()
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # the low byte is the kind of error
            error.add_note(f"in lock file `{lock_path}`; the store needs to write there")
            raise
        raise StoreInUseError(
            f"store file `{path}` is in use by {holder}; end that process or close its store first"
        ) from error
    return lock


def _holder(lock: sqlite3.Connection) -> str:
    with suppress(sqlite3.Error), closing(lock.execute("SELECT pid FROM holder")) as rows:
        pid = rows.fetchone()
        if pid is not None:
            return "this process" if pid[0] == os.getpid() else f"process {pid[0]}"
    return "another process"
