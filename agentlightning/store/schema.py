"""Tables of the SQL home. `sqlite_file` and `postgres` make them, `statements` and `sql_ledger` use them.

Columns have the names of the rows in `rows`; `ordinal` is the order of creation.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy import Text as PlainText
from sqlalchemy.dialects import postgresql

from .transitions import ACTIVE

SCHEMA_VERSION: Final = 2
"""Kept in the database; one of another version is brought up to it (`MIGRATIONS`) or refused rather than misread."""
MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "ALTER TABLE spans ADD COLUMN links TEXT NOT NULL DEFAULT '[]'",
        """UPDATE spans SET resource = ' {"attributes":' || resource || ',"schema_url":""}'""",
    )
}
"""How a SQLite file of the version becomes one of the next; new tables and indexes come by themselves."""

metadata: Final = MetaData()

# Text is compared by bytes, as SQLite and Python do, whatever the database's locale.
Text: Final = PlainText().with_variant(postgresql.TEXT(collation="C"), "postgresql")
# SQLite's integers have 64 bits anyhow.
Counter: Final = Integer().with_variant(BigInteger, "postgresql")


def _ordinal() -> Column[Any]:
    # SQLite numbers rows by itself only in a column that is exactly INTEGER.
    return Column("ordinal", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


store_info: Final = Table(
    "store_info",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

rollouts: Final = Table(
    "rollouts",
    metadata,
    _ordinal(),
    Column("rollout_id", Text, nullable=False, unique=True),
    Column("input", Text, nullable=False),
    Column("start_time", Double, nullable=False),
    Column("end_time", Double),
    Column("mode", Text),
    Column("resources_id", Text),
    Column("status", Text, nullable=False),
    Column("config", Text, nullable=False),
    Column("metadata", Text),
    Column("attempts", Integer, nullable=False),
    Column("attempt_id", Text),
    Column("last_sequence_id", Counter, nullable=False),
    Index("rollouts_by_status", "status"),
)

_ended = rollouts.c.end_time.is_not(None)
Index("ended_rollouts", rollouts.c.end_time, rollouts.c.ordinal, sqlite_where=_ended, postgresql_where=_ended)

queue: Final = Table(
    "queue",
    metadata,
    _ordinal(),
    Column("rollout_id", Text, nullable=False, unique=True),
)

attempts: Final = Table(
    "attempts",
    metadata,
    _ordinal(),
    Column("rollout_id", Text, nullable=False),
    Column("attempt_id", Text, nullable=False),
    Column("sequence_id", Integer, nullable=False),
    Column("start_time", Double, nullable=False),
    Column("end_time", Double),
    Column("status", Text, nullable=False),
    Column("worker_id", Text),
    Column("last_heartbeat_time", Double),
    Column("metadata", Text),
    UniqueConstraint("rollout_id", "attempt_id"),
)

_active = attempts.c.status.in_(sorted(ACTIVE))
Index("active_attempts", attempts.c.worker_id, attempts.c.ordinal, sqlite_where=_active, postgresql_where=_active)

spans: Final = Table(
    "spans",
    metadata,
    _ordinal(),
    Column("rollout_id", Text, nullable=False),
    Column("attempt_id", Text, nullable=False),
    Column("sequence_id", Counter, nullable=False),
    Column("span_id", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("parent_id", Text),
    Column("name", Text, nullable=False),
    Column("start_time", Double),
    Column("end_time", Double),
    Column("status", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("events", Text, nullable=False),
    Column("links", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("token_call", LargeBinary),
    UniqueConstraint("rollout_id", "attempt_id", "span_id"),
)

workers: Final = Table(
    "workers",
    metadata,
    _ordinal(),
    Column("worker_id", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False),
    Column("heartbeat_stats", Text),
    Column("last_heartbeat_time", Double),
    Column("last_dequeue_time", Double),
    Column("last_busy_time", Double),
    Column("last_idle_time", Double),
    Column("current_rollout_id", Text),
    Column("current_attempt_id", Text),
)

resources: Final = Table(
    "resources",
    metadata,
    _ordinal(),
    Column("resources_id", Text, nullable=False, unique=True),
    Column("create_time", Double, nullable=False),
    Column("update_time", Double, nullable=False),
    Column("version", Integer, nullable=False),
    Column("resources", Text, nullable=False),
    Column("changed", BigInteger, nullable=False, unique=True),
)

replies: Final = Table(
    "replies",
    metadata,
    Column("key", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("time", Double, nullable=False),
    Index("replies_by_time", "time"),
)

store_writers: Final = Table(
    "store_writers",
    MetaData(),
    Column("writer", Text, primary_key=True),
    Column("commits", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
)
"""PostgreSQL only: how many transactions each writer has committed, for `postgres`."""
