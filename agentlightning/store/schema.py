"""Tables of the SQL home. `sqlite_file` makes them, `statements` and `sql_ledger` use them.

Columns have the names and the order of the rows in `rows`; `ordinal` is the order of creation.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint

from .transitions import ACTIVE

SCHEMA_VERSION: Final = 1
"""Kept in the database; a file of another version is refused rather than misread."""

metadata: Final = MetaData()


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
    Column("last_sequence_id", Integer, nullable=False),
    Index("rollouts_by_status", "status"),
)

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
Index("active_attempts", attempts.c.worker_id, sqlite_where=_active, postgresql_where=_active)

spans: Final = Table(
    "spans",
    metadata,
    _ordinal(),
    Column("rollout_id", Text, nullable=False),
    Column("attempt_id", Text, nullable=False),
    Column("sequence_id", Integer, nullable=False),
    Column("span_id", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("parent_id", Text),
    Column("name", Text, nullable=False),
    Column("start_time", Double),
    Column("end_time", Double),
    Column("status", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("events", Text, nullable=False),
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
