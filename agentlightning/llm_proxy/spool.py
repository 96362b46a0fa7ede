"""`Spool`: calls that wait on disk until the store can take them. Used by `recorder`, in the gateway's event loop.

A SQLite file of one table, `spool.sqlite` in a directory that is one gateway's own. SQLite has what a format of our
own would need: a record that a crash tore is not there, what is delivered is deleted, a second gateway is refused. When
`append` returns, the calls are with the operating system, so that `kill -9` of the gateway loses none. They are not
forced to the disk each time (`synchronous=NORMAL`, as in the store's own file): a machine that loses its power may lose
the last ones.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from agentlightning.types import ConfigError

FILE = "spool.sqlite"
LARGE = 2 * 1024 * 1024
"""Bytes from which the file of an empty spool is made small again."""

AttemptKey = tuple[str, str]
"""(rollout_id, attempt_id)."""


class Entry(NamedTuple):
    """The spans of one call."""

    number: int
    """Its place; later ones have larger numbers."""
    rollout_id: str
    attempt_id: str
    spans: bytes
    """JSON list, as the store's HTTP interface has it."""


class Spool:
    """The file. Used by one thread at a time. `made` says when, in seconds since the epoch.

    Args:
        folder: Made if it is not there.

    Raises:
        ConfigError: another gateway has the directory, or what is there is no spool.
        OSError, sqlite3.Error: the directory can't be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Opened in one thread, used in the gateway's; transactions are one statement each.
        self._db = sqlite3.connect(folder / FILE, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._waiting = self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise _explained(error, folder) from error

    def _open(self) -> int:
        # The lock on the file is held from the first access until it is closed or the process is gone.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", "journal_size_limit=0"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS calls (number INTEGER PRIMARY KEY, rollout_id TEXT NOT NULL,"
            " attempt_id TEXT NOT NULL, spans BLOB NOT NULL)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS about (id INTEGER PRIMARY KEY, made REAL NOT NULL)")
        self._db.execute("INSERT OR IGNORE INTO about VALUES (1, ?)", (time.time(),))
        self.made: float = self._db.execute("SELECT made FROM about").fetchone()[0]
        return self._db.execute("SELECT count(*) FROM calls").fetchone()[0]

    def __len__(self) -> int:
        """How many calls wait."""
        return self._waiting

    def append(self, calls: Iterable[tuple[AttemptKey, bytes]]) -> list[int]:
        """Keep calls behind those that are there, all or none; their numbers.

        Raises:
            sqlite3.Error: they can't be written, such as for a full disk.
        """
        rows = [(*key, spans) for key, spans in calls]
        numbers: list[int] = []
        self._db.execute("BEGIN")
        try:
            for row in rows:
                done = self._db.execute("INSERT INTO calls (rollout_id, attempt_id, spans) VALUES (?, ?, ?)", row)
                assert done.lastrowid is not None
                numbers.append(done.lastrowid)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # some failures have ended it
                self._db.execute("ROLLBACK")
            raise
        self._waiting += len(numbers)
        return numbers

    def first(self, count: int, size: int) -> list[Entry]:
        """Up to `count` calls from the front, and no more once their spans are `size` bytes."""
        found: list[Entry] = []
        with closing(self._db.execute("SELECT * FROM calls ORDER BY number LIMIT ?", (count,))) as rows:
            for row in rows:
                found.append(Entry._make(row))
                size -= len(found[-1].spans)
                if size <= 0:
                    break
        return found

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget calls. Raises `sqlite3.Error` where that can't be written; then they are all still there."""
        if not numbers:
            return
        marks = ",".join("?" * len(numbers))
        self._waiting -= self._db.execute(f"DELETE FROM calls WHERE number IN ({marks})", numbers).rowcount
        if self._waiting == 0 and self._size() > LARGE:
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _size(self) -> int:
        pages, page = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return pages * page

    def counts(self) -> dict[AttemptKey, int]:
        """How many calls wait, by attempt."""
        rows = self._db.execute("SELECT rollout_id, attempt_id, count(*) FROM calls GROUP BY 1, 2")
        return {(rollout_id, attempt_id): count for rollout_id, attempt_id, count in rows}

    def close(self) -> None:
        """Give the directory free; what waits is found there by the next gateway."""
        self._db.close()


def _explained(error: sqlite3.DatabaseError, folder: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind of error
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConfigError(f"`spool_dir` '{folder}' is in use by another gateway; give each one a directory of its own")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigError(
            f"`{FILE}` in `spool_dir` '{folder}' can't be read ({error}); move it away, or give another directory"
        )
    error.add_note(f"in `spool_dir` '{folder}'")
    return error
