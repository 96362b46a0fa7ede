"""`PostgresDatabase`: a store in a PostgreSQL database, which several servers may share.

`sql` opens it, `writer` uses it. Statements go out in pipeline mode: one that only writes is not waited for, a failure
shows at the next result. The isolation is READ COMMITTED, so operations lock the rows that they decide on
(`SqlLedger.lock_*`).

A connection may get lost at any moment. Until COMMIT has been sent, the transaction is void and runs again. If the
answer to COMMIT is lost, the row in `store_writers` says whether it was done: each transaction that writes puts its
number there. (PostgreSQL's `pg_xact_status` does not do for that: a transaction number that never reached the log is
given to somebody else after a crash.)
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg import errors
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.schema import CreateIndex, CreateTable

from agentlightning.types import StoreUnavailableError

from .ledger import Effects
from .listener import FIRST_DELAY, Listener, notes
from .schema import SCHEMA_VERSION, metadata, store_writers
from .sql_ledger import SqlLedger
from .waits import Waits

DEFAULTS: Final = {
    "application_name": "agentlightning",
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "target_session_attrs": "read-write",
    # A server that is gone without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
SESSION: Final = """
    SET default_transaction_isolation = 'read committed';
    SET synchronous_commit = on;
    SET lock_timeout = '200ms';
    SET idle_in_transaction_session_timeout = '10s';
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off
"""
"""A group of operations gives up its locks rather than wait for long: two groups may each want what the other has. A
process that is stopped in the middle of a transaction holds others up no longer than ten seconds. All joins are of a
few rows with an index, whatever the planner thinks of tables that it has not counted yet."""
STALE_SECONDS: Final = 7 * 86400
"""After this time without a commit a writer's row is removed."""
LOOK_AGAIN_SECONDS: Final = 0.05
PASSING: Final = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.UniqueViolation,
)
"""Failures that come from what another transaction did at the same time."""


class _Undone(psycopg.OperationalError):
    """The lost transaction was not committed."""


class PostgresDatabase:
    """A connection, its transactions, and the listener beside it.

    Args:
        url: Where the database is; anything of libpq may be in its query.
        reconnect_seconds: How long to try to reach the database again once it is lost.
        waits: Who to wake when other servers queue or end rollouts.

    Raises:
        StoreUnavailableError: the database can't be reached, or refuses.
        ValueError: it holds tables that are not a store's, or a store's of another version; an option of the URL that
            there is not; no right to make tables.
    """

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, url: URL, reconnect_seconds: float, waits: Waits) -> None:
        dialect = PGDialect_psycopg(paramstyle="format")
        self._arguments: dict[str, Any] = {**DEFAULTS, **dialect.create_connect_args(url)[1]}
        self.where = f"database `{url.database}` at `{self._arguments.get('host', 'the local socket')}`"
        self._reconnect_seconds, self._waits = reconnect_seconds, waits
        self._lost_at: float | None = None
        self._me, self._commits = secrets.token_hex(8), 0
        self._cursor: psycopg.Cursor[Any]
        try:
            self._use(self._connect())
            key = self._make_tables(dialect)
            self.ledger = SqlLedger(self, dialect, lock_key=key)
            self._listener = Listener(self._connect, self._channel, lambda: self._pid, waits)
        except BaseException as error:
            if hasattr(self, "_connection"):
                self._leave()
            if isinstance(error, psycopg.OperationalError):
                raise StoreUnavailableError(f"{self.where} can't be opened: {_one_line(error)}") from error
            if isinstance(error, psycopg.Error):  # an option that there is not, a right that is missing
                raise ValueError(f"{self.where} can't be used as a store: {_one_line(error)}") from error
            raise

    # -- what `SqlLedger` uses of a cursor --------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> None:
        self._cursor = self._connection.execute(sql.encode(), parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> None:
        self._connection.cursor().executemany(sql.encode(), parameters)

    def fetchall(self) -> list[Any]:
        # Without this the server would not know that it is our turn, and not count the seconds that we stand still.
        self._pipeline.sync()
        return self._cursor.fetchall()

    # -- transactions -----------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The database's clock, in seconds since the epoch."""
        self.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        return self.fetchall()[0][0]

    def begin(self, *, patient: bool) -> None:
        if self.lost():
            self._reconnect()
        self.ledger.skipped = 0
        self.execute("BEGIN")
        if patient:
            self.execute("SET LOCAL lock_timeout = 0")

    def commit(self, effects: Effects, *, wrote: bool) -> None:
        if wrote:
            self._commits += 1
            self._mark(self._commits)
            for note in notes(effects):
                self.execute("SELECT pg_notify(%s, %s)", (self._channel, note))
            # Not together with COMMIT: an answer to this means that whoever asks for the mark waits for the end.
            self._pipeline.sync()
        try:
            self.execute("COMMIT")
            self._pipeline.sync()
        except psycopg.Error as error:
            if not wrote:
                raise
            # Whatever the error says: the connection may end right after a commit that was done.
            self._leave()
            if not self._was_committed():
                raise _Undone("the connection was lost before the commit was done") from error
        if self.ledger.skipped:
            self._look_again(self.ledger.skipped)

    def rollback(self) -> None:
        if self.lost():
            return
        with suppress(psycopg.Error):
            self._pipeline.sync()  # after an error everything is ignored up to here
        try:
            self.execute("ROLLBACK")
            self._pipeline.sync()
        except psycopg.Error:
            self._leave()
            raise

    def passing(self, error: BaseException) -> bool:
        return isinstance(error, (*PASSING, _Undone)) or (isinstance(error, psycopg.Error) and self.lost())

    def lost(self) -> bool:
        return self._connection.closed

    def explained(self, error: Exception) -> Exception:
        if isinstance(error, psycopg.DataError):  # NUL in a text, a number that is too large
            return ValueError(f"{self.where} can't keep a value: {_one_line(error)}; nothing was changed")
        if isinstance(error, (psycopg.OperationalError, *PASSING)):
            # Connections, shortage of disk or memory; also what others kept from succeeding many times.
            return StoreUnavailableError(f"{self.where}: {_one_line(error)}; nothing was changed, try again later")
        error.add_note(f"in {self.where}; this operation changed nothing")
        return error

    def close(self) -> None:
        self._listener.close()
        self._leave()

    # -- the connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(**self._arguments, autocommit=True, prepare_threshold=2)
        connection.execute(SESSION)
        return connection

    def _use(self, connection: psycopg.Connection[Any]) -> None:
        self._connection, self._lost_at = connection, None
        self._pid = connection.info.backend_pid
        self._entered = connection.pipeline()  # left open; ends with the connection
        self._pipeline = self._entered.__enter__()

    def _leave(self) -> None:
        with suppress(psycopg.Error):  # it may be gone already
            self._entered.__exit__(None, None, None)
        self._connection.close()

    def _reconnect(self) -> None:
        """Raises `StoreUnavailableError` when the time is over."""
        self._leave()
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        deadline, delay = self._lost_at + self._reconnect_seconds, FIRST_DELAY
        while True:
            try:
                self._use(self._connect())
                return
            except psycopg.OperationalError as error:
                if time.monotonic() + delay > deadline:
                    lost_for = time.monotonic() - self._lost_at
                    raise StoreUnavailableError(
                        f"{self.where} can't be reached for {lost_for:.0f} s now: {_one_line(error)}"
                    ) from error
                time.sleep(delay)
                delay = min(2 * delay, 1.0)

    def _mark(self, number: int) -> None:
        self.execute(
            "INSERT INTO store_writers (writer, commits, time) VALUES (%s, %s, extract(epoch FROM now())) "
            "ON CONFLICT (writer) DO UPDATE SET commits = excluded.commits, time = excluded.time",
            (self._me, number),
        )

    def _was_committed(self) -> bool:
        """Whether the last transaction was, whose answer was lost with the connection."""
        deadline = time.monotonic() + self._reconnect_seconds
        while True:
            try:
                self._reconnect()
                return self._read_mark() == self._commits
            except (psycopg.Error, StoreUnavailableError) as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailableError(
                        f"{error}; whether the last operations were kept is not known"
                    ) from error

    def _read_mark(self) -> int:
        self.execute("SET lock_timeout = 0")
        # Writes, so as to wait for the lost transaction if it is still there.
        self.execute(
            "INSERT INTO store_writers (writer, commits, time) VALUES (%s, 0, extract(epoch FROM now())) "
            "ON CONFLICT (writer) DO UPDATE SET time = excluded.time RETURNING commits",
            (self._me,),
        )
        ((commits,),) = self.fetchall()
        self.execute("SET lock_timeout = '200ms'")
        self._pipeline.sync()
        return commits

    def _look_again(self, count: int) -> None:
        """Another server had locked what we wanted to dequeue; it may let it go without taking it, or die."""
        timer = threading.Timer(LOOK_AGAIN_SECONDS, self._waits.notify, (Effects(queued=count),))
        timer.daemon = True
        timer.start()

    # -- the tables -------------------------------------------------------------------------------------------------

    def _make_tables(self, dialect: PGDialect_psycopg) -> int:
        """Make what is missing, and check what is there. Returns the key of the store's advisory locks."""
        self.execute("SELECT current_schema()")
        ((schema,),) = self.fetchall()
        if schema is None:
            raise ValueError(f"{self.where} has no schema of the `search_path`; create one, or name another")
        digest = hashlib.sha256(f"agentlightning {schema}".encode()).digest()
        self._channel, key = f"agl_{digest[:8].hex()}", int.from_bytes(digest[8:12], "big", signed=True)
        self.execute("BEGIN")
        # One at a time makes tables, also where several servers start at once.
        self.execute("SET LOCAL lock_timeout = 0")
        self.execute("SELECT pg_advisory_xact_lock(%s, 0)", (key,))
        self.execute("SELECT to_regclass('store_info')")
        if self.fetchall() == [(None,)]:
            self._create(dialect)
        self.execute("SELECT value FROM store_info WHERE name = 'schema_version'")
        version = [row[0] for row in self.fetchall()]
        self.execute("DELETE FROM store_writers WHERE time < extract(epoch FROM now()) - %s", (STALE_SECONDS,))
        self.execute("COMMIT")
        self._pipeline.sync()
        if version != [str(SCHEMA_VERSION)]:
            raise ValueError(
                f"{self.where} holds a store of schema version {', '.join(version)}, this release reads "
                f"{SCHEMA_VERSION}; open it with the release that wrote it, or give another database"
            )
        return key

    def _create(self, dialect: PGDialect_psycopg) -> None:
        try:
            for table in (*metadata.sorted_tables, store_writers):
                self.execute(str(CreateTable(table).compile(dialect=dialect)))
                for index in table.indexes:
                    self.execute(str(CreateIndex(index).compile(dialect=dialect)))
            self.execute("INSERT INTO store_info VALUES ('schema_version', %s)", (str(SCHEMA_VERSION),))
            self._pipeline.sync()
        except errors.DuplicateTable as error:
            raise ValueError(
                f"{self.where} has a table that is not a store's ({_one_line(error)}); "
                "give a database of its own, or a schema: `?options=-csearch_path%3D<schema>`"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
