"""The SQL of the hot paths, written with SQLAlchemy Core and compiled once for a dialect.

A statement takes microseconds when its text is ready and the driver runs it, and a tenth of a millisecond through
SQLAlchemy's own execution: a rollout takes some thirty statements. `sql_ledger` runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    ClauseElement,
    Dialect,
    Table,
    any_,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects import postgresql, sqlite

from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow
from .schema import Text, attempts, queue, replies, resources, rollouts, spans, workers
from .transitions import ACTIVE

Values: TypeAlias = Sequence[Any]

MANY: Final = 64
"""How many ids one statement of SQLite looks up; shorter lists are filled up, so that the text stays the same."""


ROLLOUT_CHANGES: Final = ("end_time", "status", "attempts", "attempt_id", "last_sequence_id")
"""Columns of a rollout that the state machine changes."""
SPAN_KEY: Final = ("rollout_id", "attempt_id", "span_id")
ATTEMPT_CHANGES: Final = ("end_time", "status", "worker_id", "last_heartbeat_time", "metadata")


class Statement(NamedTuple):
    sql: str
    names: tuple[str, ...]
    """Of the parameters, in order; one may come more than once."""
    constants: dict[str, Any]

    def bind(self, **values: Any) -> Values:
        """Parameters for the driver."""
        known = {**self.constants, **values}
        return [known[name] for name in self.names]


def prepared(clause: ClauseElement, dialect: Dialect, columns: Sequence[str] | None = None) -> Statement:
    """A statement whose parameters come later; `columns` are those that an INSERT or UPDATE sets."""
    return _statement(clause.compile(dialect=dialect, column_keys=columns))


def _statement(compiled: Any) -> Statement:
    return Statement(str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params))


class Statements:
    """All prepared statements, for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        def prepare(clause: ClauseElement, columns: Sequence[str] | None = None) -> Statement:
            return prepared(clause, dialect, columns)

        self._arrays = dialect.name == "postgresql"
        among = _among_array if self._arrays else _among_list

        self.rollout = prepare(_select(rollouts).where(rollouts.c.rollout_id == bindparam("rollout_id")))
        self.rollouts = prepare(_select(rollouts).where(among(rollouts.c.rollout_id)))
        # In one order everywhere, so that two writers do not wait for each other. SQLite locks the file instead.
        self.lock_rollouts = prepare(
            _select(rollouts).where(among(rollouts.c.rollout_id)).order_by(rollouts.c.rollout_id).with_for_update()
        )
        self.insert_rollouts = prepare(_insert(rollouts), RolloutRow._fields)
        self.move_rollout = prepare(_update(rollouts, "rollout_id"), ROLLOUT_CHANGES)
        self.save_rollout = prepare(_update(rollouts, "rollout_id"), RolloutRow._fields)

        first = select(queue.c.ordinal).order_by(queue.c.ordinal).limit(bindparam("limit"))
        if dialect.name == "postgresql":
            # With its rollout: who changes a rollout locks that first, and then its place in the queue.
            first = first.join(rollouts, rollouts.c.rollout_id == queue.c.rollout_id)
            first = first.with_for_update(skip_locked=True, of=[rollouts, queue])
            # As a CTE it runs once. A subquery may run for each row of the queue (small tables, nested loops), and each
            # run skips what the one before took: more rows than `limit` would go.
            first = select(first.cte("first").c.ordinal)
        self.enqueue = prepare(_insert(queue), ("rollout_id",))
        self.unqueue = prepare(delete(queue).where(queue.c.rollout_id == bindparam("rollout_id")))
        self.take_queued = prepare(
            delete(queue).where(queue.c.ordinal.in_(first)).returning(queue.c.ordinal, queue.c.rollout_id)
        )

        seen = select(queue.c.ordinal).limit(MANY).subquery()
        self.count_queue = prepare(select(func.count()).select_from(seen))

        of_attempt = attempts.c.rollout_id == bindparam("key_rollout_id")
        this_attempt = of_attempt & (attempts.c.attempt_id == bindparam("key_attempt_id"))
        active = attempts.c.status.in_([_literal(status) for status in sorted(ACTIVE)])
        self.attempt = prepare(_select(attempts).where(this_attempt))
        self.attempts = prepare(_select(attempts).where(among(attempts.c.rollout_id)))
        self.insert_attempt = prepare(_insert(attempts), AttemptRow._fields)
        self.save_attempt = prepare(update(attempts).where(this_attempt), ATTEMPT_CHANGES)
        self.delete_attempt = prepare(delete(attempts).where(this_attempt))
        self.active_attempts = prepare(
            select(*row_columns(attempts), rollouts.c.config)
            .join(rollouts, rollouts.c.rollout_id == attempts.c.rollout_id)
            .where(active)
            # Not by the plain column: SQLite would read all attempts in order rather than the few of the index.
            .order_by(attempts.c.ordinal + literal_column("0"))
        )
        self.newest_active_attempt = prepare(
            _select(attempts)
            .where(active, attempts.c.worker_id == bindparam("worker_id"))
            .order_by(attempts.c.ordinal.desc())
            .limit(1)
        )

        insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect.name]
        self.known_spans = _known_spans_in_arrays() if self._arrays else prepare(_known_span())
        self.insert_spans = prepare(_insert(spans), SpanRow._fields)
        self.spans = prepare(
            _select(spans)
            .where(spans.c.rollout_id == bindparam("rollout_id"), spans.c.attempt_id == bindparam("attempt_id"))
            .order_by(spans.c.sequence_id, spans.c.ordinal)
        )

        self.resources = prepare(_select(resources).where(resources.c.resources_id == bindparam("resources_id")))
        self.latest_resources = prepare(_select(resources).order_by(resources.c.changed.desc()).limit(1))
        self.worker = prepare(_select(workers).where(workers.c.worker_id == bindparam("worker_id")))
        self.workers = prepare(_select(workers).where(among(workers.c.worker_id)))
        self.lock = prepare(select(func.pg_advisory_xact_lock(bindparam("store"), bindparam("what"))))
        self.save_resources = prepare(_upsert(insert(resources), "resources_id", resources), ResourcesRow._fields)
        self.save_worker = prepare(_upsert(insert(workers), "worker_id", workers), WorkerRow._fields)

        self.reply = prepare(select(replies.c.text).where(replies.c.key == bindparam("key")))
        self.save_reply = prepare(_upsert(insert(replies), "key", replies), ("key", "text", "time"))
        self.drop_reply = prepare(delete(replies).where(replies.c.key == bindparam("key")))
        self.drop_replies = prepare(delete(replies).where(replies.c.time < bindparam("before")))

        ended = rollouts.c.end_time.is_not(None)
        self.count_ended = prepare(select(func.count()).select_from(rollouts).where(ended))
        self.ended = prepare(
            select(rollouts.c.rollout_id)
            .where(ended)
            .order_by(rollouts.c.end_time, rollouts.c.ordinal)
            .limit(bindparam("limit"))
        )
        self.drop = [prepare(delete(table).where(among(table.c.rollout_id))) for table in (spans, attempts, rollouts)]

        self.counts = prepare(
            union_all(
                *(
                    select(func.count()).select_from(table)
                    for table in (rollouts, attempts, spans, resources, workers, queue)
                )
            )
        )

    def id_lists(self, ids: Sequence[str]) -> Iterable[Values]:
        """Parameters for the statements that look up many ids."""
        return [[list(ids)]] if self._arrays and ids else chunks(ids)

    def key_lists(self, keys: Sequence[Values]) -> Iterable[Values]:
        """Parameters for `known_spans`: key by key, or in PostgreSQL all the keys, column by column."""
        return [list(map(list, zip(*keys, strict=True)))] if self._arrays and keys else keys


def row_columns(table: Table) -> list[Any]:
    """The columns that make a row: all but the order of creation."""
    return [column for column in table.c if column.name != "ordinal"]


def chunks(items: Sequence[Any]) -> Iterable[list[Any]]:
    """Lists of exactly `MANY` items; the last one is filled up by repeating its last item."""
    for start in range(0, len(items), MANY):
        chunk = list(items[start : start + MANY])
        yield chunk + chunk[-1:] * (MANY - len(chunk))


def _select(table: Table) -> Any:
    return select(*row_columns(table))


def _update(table: Table, key: str) -> Any:
    return update(table).where(table.c[key] == bindparam(f"key_{key}"))


def _insert(table: Table) -> Any:
    # Without the `ordinal` of the new row, which PostgreSQL would be asked for.
    return plain_insert(table).inline()


def _known_span() -> Any:
    key = [spans.c[name] for name in SPAN_KEY]
    return select(*key).where(*(column == bindparam(column.name) for column in key))


def _known_spans_in_arrays() -> Statement:
    names = ", ".join(SPAN_KEY)
    arrays = ", ".join("%s::TEXT[]" for _ in SPAN_KEY)
    sql = f"SELECT {names} FROM spans JOIN unnest({arrays}) AS wanted ({names}) USING ({names})"
    return Statement(sql, SPAN_KEY, {})


def _upsert(insert: Any, key: str, table: Table) -> Any:
    changed = {column.name: insert.excluded[column.name] for column in row_columns(table) if column.name != key}
    return insert.inline().on_conflict_do_update(index_elements=[key], set_=changed)


def _among_list(column: Any) -> Any:
    return column.in_([bindparam(f"id_{index}") for index in range(MANY)])


def _among_array(column: Any) -> Any:
    return column == any_(bindparam("ids", type_=postgresql.ARRAY(Text)))


def _literal(text: str) -> Any:
    # A parameter would hide from the planner that the partial index serves.
    return literal_column(f"'{text}'")
