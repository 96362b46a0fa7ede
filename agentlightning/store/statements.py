"""The SQL of the hot paths, written with SQLAlchemy Core and compiled once for a dialect.

A statement takes microseconds when its text is ready and the driver runs it, and a tenth of a millisecond through
SQLAlchemy's own execution: a rollout takes some thirty statements. `sql_ledger` runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import ClauseElement, Dialect, Table, bindparam, delete, func, literal_column, select, union_all, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects import postgresql, sqlite

from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow
from .schema import attempts, queue, resources, rollouts, spans, store_info, workers
from .transitions import ACTIVE

Values: TypeAlias = Sequence[Any]

MANY: Final = 64
"""How many ids one statement looks up; shorter lists are filled up, so that the text stays the same."""


ROLLOUT_CHANGES: Final = ("end_time", "status", "attempts", "attempt_id", "last_sequence_id")
"""Columns of a rollout that the state machine changes."""
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


def ready(clause: ClauseElement, dialect: Dialect) -> Statement:
    """A statement that holds its parameters."""
    return _statement(clause.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))


def _statement(compiled: Any) -> Statement:
    return Statement(str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params))


class Statements:
    """All prepared statements, for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        def prepare(clause: ClauseElement, columns: Sequence[str] | None = None) -> Statement:
            return prepared(clause, dialect, columns)

        self.rollout = prepare(_select(rollouts).where(rollouts.c.rollout_id == bindparam("rollout_id")))
        self.rollouts = prepare(_select(rollouts).where(rollouts.c.rollout_id.in_(_many("id"))))
        self.insert_rollout = prepare(plain_insert(rollouts), RolloutRow._fields)
        self.move_rollout = prepare(_update(rollouts, "rollout_id"), ROLLOUT_CHANGES)
        self.save_rollout = prepare(_update(rollouts, "rollout_id"), RolloutRow._fields)

        first = select(queue.c.ordinal).order_by(queue.c.ordinal).limit(bindparam("limit"))
        first = first.with_for_update(skip_locked=True)
        self.enqueue = prepare(plain_insert(queue), ("rollout_id",))
        self.unqueue = prepare(delete(queue).where(queue.c.rollout_id == bindparam("rollout_id")))
        self.take_queued = prepare(
            delete(queue).where(queue.c.ordinal.in_(first)).returning(queue.c.ordinal, queue.c.rollout_id)
        )

        of_attempt = attempts.c.rollout_id == bindparam("key_rollout_id")
        this_attempt = of_attempt & (attempts.c.attempt_id == bindparam("key_attempt_id"))
        active = attempts.c.status.in_([_literal(status) for status in sorted(ACTIVE)])
        self.attempt = prepare(_select(attempts).where(this_attempt))
        self.attempts = prepare(_select(attempts).where(attempts.c.rollout_id.in_(_many("id"))))
        self.insert_attempt = prepare(plain_insert(attempts), AttemptRow._fields)
        self.save_attempt = prepare(update(attempts).where(this_attempt), ATTEMPT_CHANGES)
        self.delete_attempt = prepare(delete(attempts).where(this_attempt))
        self.active_attempts = prepare(_select(attempts).where(active).order_by(attempts.c.ordinal))
        self.newest_active_attempt = prepare(
            _select(attempts)
            .where(active, attempts.c.worker_id == bindparam("worker_id"))
            .order_by(attempts.c.ordinal.desc())
            .limit(1)
        )

        insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect.name]
        self.insert_span = prepare(insert(spans).on_conflict_do_nothing(), SpanRow._fields)
        self.spans = prepare(
            _select(spans)
            .where(spans.c.rollout_id == bindparam("rollout_id"), spans.c.attempt_id == bindparam("attempt_id"))
            .order_by(spans.c.sequence_id, spans.c.ordinal)
        )

        self.resources = prepare(_select(resources).where(resources.c.resources_id == bindparam("resources_id")))
        self.latest_resources = prepare(_select(resources).order_by(resources.c.changed.desc()).limit(1))
        self.worker = prepare(_select(workers).where(workers.c.worker_id == bindparam("worker_id")))
        self.save_resources = prepare(_upsert(insert(resources), "resources_id", resources), ResourcesRow._fields)
        self.save_worker = prepare(_upsert(insert(workers), "worker_id", workers), WorkerRow._fields)

        self.insert_info = prepare(insert(store_info).on_conflict_do_nothing(), ("name", "value"))
        self.info = prepare(select(store_info.c.value).where(store_info.c.name == bindparam("name")))
        self.counts = prepare(
            union_all(
                *(
                    select(func.count()).select_from(table)
                    for table in (rollouts, attempts, spans, resources, workers, queue)
                )
            )
        )


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


def _upsert(insert: Any, key: str, table: Table) -> Any:
    changed = {column.name: insert.excluded[column.name] for column in row_columns(table) if column.name != key}
    return insert.on_conflict_do_update(index_elements=[key], set_=changed)


def _many(name: str) -> list[Any]:
    return [bindparam(f"{name}_{index}") for index in range(MANY)]


def _literal(text: str) -> Any:
    # A parameter would hide from the planner that the partial index serves.
    return literal_column(f"'{text}'")
