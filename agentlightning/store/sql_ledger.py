"""`SqlLedger`: the rows of the SQL home, over one DBAPI connection. Used by the writer thread only."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import BigInteger, Dialect, and_, any_, bindparam, false, func, or_, select
from sqlalchemy.dialects import postgresql

from .ledger import Effects, Ledger, SpanKey
from .query import Filter, Kind, Page, Query
from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow
from .schema import Text, attempts, resources, rollouts, spans, workers
from .statements import Statement, Statements, Values, prepared, row_columns

R = TypeVar("R")
QUERIES_KEPT: Final = 256
"""Shapes of queries whose statements stay compiled: to compile them takes ten times as long as to run them."""


class Cursor(Protocol):
    """What we use of a DBAPI cursor."""

    def execute(self, sql: str, parameters: Any = (), /) -> object: ...
    def executemany(self, sql: str, parameters: Any, /) -> object: ...
    def fetchall(self) -> list[Any]: ...


_TABLES: Final[dict[Kind, tuple[Any, Callable[[Iterable[Any]], Any]]]] = {
    "rollouts": (rollouts, RolloutRow._make),
    "attempts": (attempts, AttemptRow._make),
    "spans": (spans, SpanRow._make),
    "resources": (resources, ResourcesRow._make),
    "workers": (workers, WorkerRow._make),
}


class SqlLedger(Ledger):
    """Rows in SQL tables.

    Args:
        cursor: Of the writer thread's connection.
        dialect: SQLAlchemy's description of the database; must use positional parameters.
        lock_key: First key of the advisory locks, in a database that others may write at the same time (PostgreSQL).
    """

    def __init__(self, cursor: Cursor, dialect: Dialect, lock_key: int | None = None) -> None:
        self.effects = Effects()
        self.wrote = False
        """Whether the running operation has written; its runner sets it to false."""
        self.skipped = 0
        """How many queued rollouts were left to other writers, that had them locked; whoever begins sets it to 0."""
        self._lock_key = lock_key
        self._cursor = cursor
        self._dialect = dialect
        self._do = Statements(dialect)
        self._queries: dict[tuple[Any, ...], tuple[Statement, Statement]] = {}

    # -- rollouts and the queue -------------------------------------------------------------------------------------

    def rollout(self, rollout_id: str) -> RolloutRow | None:
        return self._one(RolloutRow._make, self._do.rollout, (rollout_id,))

    def rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        if len(rollout_ids) == 1:
            found = self.rollout(rollout_ids[0])
            return [] if found is None else [found]
        return [RolloutRow._make(row) for row in self._by_ids(self._do.rollouts, rollout_ids)]

    def lock_rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        if self._lock_key is None:
            return self.rollouts(rollout_ids)
        return [RolloutRow._make(row) for row in self._by_ids(self._do.lock_rollouts, rollout_ids)]

    def insert_rollouts(self, rows: Sequence[RolloutRow]) -> None:
        self._write_many(self._do.insert_rollouts, rows)

    def move_rollout(self, row: RolloutRow) -> None:
        self._write(
            self._do.move_rollout,
            (row.end_time, row.status, row.attempts, row.attempt_id, row.last_sequence_id, row.rollout_id),
        )

    def save_rollout(self, row: RolloutRow) -> None:
        self._write(self._do.save_rollout, (*row, row.rollout_id))

    def enqueue(self, rollout_ids: Iterable[str]) -> None:
        self._write_many(self._do.enqueue, [(rollout_id,) for rollout_id in rollout_ids])

    def unqueue(self, rollout_id: str) -> None:
        self._write(self._do.unqueue, (rollout_id,))

    def take_queued(self, limit: int) -> list[str]:
        self._write(self._do.take_queued, self._do.take_queued.bind(limit=limit))
        taken = [rollout_id for _, rollout_id in sorted(self._cursor.fetchall())]
        if self._lock_key is not None and len(taken) < limit:
            self.skipped += self._rows(self._do.count_queue, self._do.count_queue.bind())[0][0]
        return taken

    # -- attempts ---------------------------------------------------------------------------------------------------

    def attempt(self, rollout_id: str, attempt_id: str) -> AttemptRow | None:
        return self._one(AttemptRow._make, self._do.attempt, (rollout_id, attempt_id))

    def attempts(self, ids: Sequence[tuple[str, str]]) -> list[AttemptRow]:
        if len(ids) == 1:
            found = self.attempt(*ids[0])
            return [] if found is None else [found]
        wanted = set(ids)
        rows = [AttemptRow._make(row) for row in self._by_ids(self._do.attempts, list({id_[0]: None for id_ in ids}))]
        return [row for row in rows if (row.rollout_id, row.attempt_id) in wanted]

    def insert_attempt(self, row: AttemptRow) -> None:
        self._write(self._do.insert_attempt, row)

    def save_attempt(self, row: AttemptRow) -> None:
        self._write(
            self._do.save_attempt,
            (row.end_time, row.status, row.worker_id, row.last_heartbeat_time, row.metadata, *row[:2]),
        )

    def delete_attempt(self, rollout_id: str, attempt_id: str) -> None:
        self._write(self._do.delete_attempt, (rollout_id, attempt_id))

    def active_attempts(self) -> list[tuple[AttemptRow, str]]:
        return [(AttemptRow._make(row), config) for *row, config in self._rows(self._do.active_attempts, ())]

    def newest_active_attempt(self, worker_id: str) -> AttemptRow | None:
        do = self._do.newest_active_attempt
        return self._one(AttemptRow._make, do, do.bind(worker_id=worker_id))

    # -- spans, resources, workers ----------------------------------------------------------------------------------

    def known_spans(self, keys: Sequence[SpanKey]) -> set[SpanKey]:
        known = self._do.known_spans
        return {tuple(row) for values in self._do.key_lists(keys) for row in self._rows(known, values)}

    def insert_spans(self, rows: Sequence[SpanRow]) -> None:
        self._write_many(self._do.insert_spans, rows)

    def spans(self, rollout_id: str, attempt_id: str) -> list[SpanRow]:
        return [SpanRow._make(row) for row in self._rows(self._do.spans, (rollout_id, attempt_id))]

    def resources(self, resources_id: str) -> ResourcesRow | None:
        return self._one(ResourcesRow._make, self._do.resources, (resources_id,))

    def latest_resources(self) -> ResourcesRow | None:
        return self._one(ResourcesRow._make, self._do.latest_resources, self._do.latest_resources.bind())

    def lock_resources(self) -> None:
        self._lock("resources", "")

    def save_resources(self, row: ResourcesRow) -> None:
        self._write(self._do.save_resources, row)

    def worker(self, worker_id: str) -> WorkerRow | None:
        return self._one(WorkerRow._make, self._do.worker, (worker_id,))

    def workers(self, worker_ids: Sequence[str]) -> list[WorkerRow]:
        return [WorkerRow._make(row) for row in self._by_ids(self._do.workers, worker_ids)]

    def lock_worker(self, worker_id: str) -> WorkerRow | None:
        self._lock("worker", worker_id)
        return self.worker(worker_id)

    def save_worker(self, row: WorkerRow) -> None:
        self._write(self._do.save_worker, row)

    # -- replies and retention --------------------------------------------------------------------------------------

    def reply(self, key: str) -> str | None:
        self._lock("reply", key)
        rows = self._rows(self._do.reply, (key,))
        return rows[0][0] if rows else None

    def save_reply(self, key: str, text: str, now: float) -> None:
        self._write(self._do.save_reply, (key, text, now))

    def drop_reply(self, key: str) -> None:
        self._write(self._do.drop_reply, (key,))

    def drop_replies(self, before: float) -> None:
        self._write(self._do.drop_replies, (before,))

    def ended(self, beyond: int, limit: int) -> list[str]:
        surplus = self._rows(self._do.count_ended, ())[0][0] - beyond
        if surplus <= 0:
            return []
        return [row[0] for row in self._rows(self._do.ended, self._do.ended.bind(limit=min(surplus, limit)))]

    def drop_rollouts(self, rollout_ids: Sequence[str]) -> None:
        for statement in self._do.drop:
            for values in self._do.id_lists(rollout_ids):
                self._write(statement, values)

    # -- the rest ---------------------------------------------------------------------------------------------------

    def query(self, query: Query) -> Page[Any]:
        shape = _shape(query)
        statements = self._queries.get(shape)
        if statements is None:
            statements = self._queries[shape] = self._prepare(query)
            if len(self._queries) > QUERIES_KEPT:
                del self._queries[next(iter(self._queries))]
        found, count = statements
        values = self._values(query)
        rows = [_TABLES[query.kind][1](row) for row in self._rows(found, found.bind(**values))]
        # The end of what matches was seen, unless the page is full or begins beyond it.
        if len(rows) != query.limit and (rows or query.offset == 0):
            return Page(rows, query.offset + len(rows))
        return Page(rows, self._rows(count, count.bind(**values))[0][0])

    def counts(self) -> dict[str, int]:
        kinds = [*(f"total_{kind}" for kind in _TABLES), "queued_rollouts"]
        return dict(zip(kinds, [row[0] for row in self._rows(self._do.counts, ())], strict=True))

    def _prepare(self, query: Query) -> tuple[Statement, Statement]:
        """The page and the count of queries of this shape; `_values` are their parameters."""
        table = _TABLES[query.kind][0]
        conditions = [table.c[field] == bindparam(f"scope_{field}") for field in query.scope]
        filters = [self._condition(filter_, f"filter_{n}", table) for n, filter_ in enumerate(query.filters)]
        if filters:
            conditions.append(and_(*filters) if query.logic == "and" else or_(false(), *filters))
        found = select(*row_columns(table)).where(*conditions).order_by(*_order(query, table))
        if _paged(query):
            found = found.limit(bindparam("limit", type_=BigInteger)).offset(bindparam("offset", type_=BigInteger))
        count = select(func.count()).select_from(table).where(*conditions)
        return prepared(found, self._dialect), prepared(count, self._dialect)

    def _condition(self, filter_: Filter, name: str, table: Any) -> Any:
        column = table.c[filter_.field]
        sqlite = self._dialect.name == "sqlite"
        if filter_.test == "in":
            # One parameter however many values there are: databases take some ten thousands at most.
            if sqlite:
                return column.in_(select(func.json_each(bindparam(name)).table_valued("value").c.value))
            return column == any_(bindparam(name, type_=postgresql.ARRAY(Text)))
        # LIKE takes no account of case in SQLite.
        position = func.instr if sqlite else func.strpos
        return position(column, bindparam(name, type_=Text)) > 0

    def _values(self, query: Query) -> dict[str, Any]:
        # Every dialect has LIMIT, some have no OFFSET without it.
        values: dict[str, Any] = {"limit": 2**62 if query.limit == -1 else query.limit, "offset": query.offset}
        for field, value in query.scope.items():
            values[f"scope_{field}"] = value
        for n, filter_ in enumerate(query.filters):
            value = filter_.value
            if filter_.test == "in":
                value = json.dumps(list(value)) if self._dialect.name == "sqlite" else list(value)
            values[f"filter_{n}"] = value
        return values

    def _lock(self, kind: str, name: str) -> None:
        """Hold others who lock the same, until the transaction ends. Two names may share a lock: that costs time."""
        if self._lock_key is not None:
            what = zlib.crc32(f"{kind} {name}".encode(errors="replace")) >> 1
            self._cursor.execute(self._do.lock.sql, (self._lock_key, what))

    def _by_ids(self, statement: Statement, ids: Sequence[str]) -> Iterable[Any]:
        for values in self._do.id_lists(ids):
            yield from self._rows(statement, values)

    def _rows(self, statement: Statement, values: Values) -> list[Any]:
        self._cursor.execute(statement.sql, values)
        return self._cursor.fetchall()

    def _one(self, make: Callable[[Iterable[Any]], R], statement: Statement, values: Values) -> R | None:
        rows = self._rows(statement, values)
        return make(rows[0]) if rows else None

    def _write(self, statement: Statement, values: Values) -> None:
        self.wrote = True
        self._cursor.execute(statement.sql, values)

    def _write_many(self, statement: Statement, rows: Sequence[Values]) -> None:
        self.wrote = True
        self._cursor.executemany(statement.sql, rows)


def _paged(query: Query) -> bool:
    return query.limit != -1 or query.offset > 0


def _shape(query: Query) -> tuple[Any, ...]:
    """All that the text of its statements depends on: everything but the values."""
    tests = tuple((filter_.field, filter_.test) for filter_ in query.filters)
    return query.kind, tuple(query.scope), tests, query.logic, query.sort_by, query.sort_order, _paged(query)


def _order(query: Query, table: Any) -> list[Any]:
    if query.sort_by is None:
        return [table.c.ordinal]
    column = table.c[query.sort_by]
    wanted = column.asc().nulls_first() if query.sort_order == "asc" else column.desc().nulls_last()
    return [wanted, table.c.ordinal]
