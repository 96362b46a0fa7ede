"""What the store does to spans, over any `Ledger`. `home` calls these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.types import AttemptStatus

from . import transitions
from .ledger import Ledger, SpanKey
from .operations import (
    lease_error,
    lock_leases,
    lock_rollout,
    move_attempt,
    require_attempt,
    require_rollout,
    standing_of,
)
from .query import Page, Query
from .rows import AttemptRow, RolloutRow, SpanRow

AttemptKey = tuple[str, str]
"""(rollout_id, attempt_id)."""


def add_spans(ledger: Ledger, spans: Sequence[SpanRow], now: float) -> list[SpanRow]:
    """Store the spans that are not there yet, all or none; those stored, numbered.

    Each attempt that sent spans is alive: its heartbeat is `now`, and it is running unless it has ended.

    Raises:
        NotFoundError: a span of a rollout or attempt that is not there.
        LeaseLostError: a span of an attempt that no longer counts.
    """
    rollouts, attempts = lock_leases(ledger, [(span.rollout_id, span.attempt_id) for span in spans])
    stored, after = _insert(ledger, spans, rollouts)
    for attempt in attempts:
        row = after[attempt.rollout_id]
        status = transitions.attempt_after_span(attempt.status)
        alive = attempt._replace(last_heartbeat_time=now)
        after[attempt.rollout_id] = move_attempt(ledger, row, alive, status, now)[0]
    for rollout_id, before in rollouts.items():
        _save_counter(ledger, before, after[rollout_id])
    return stored


def end_attempt(
    ledger: Ledger,
    rollout_id: str,
    attempt_id: str,
    spans: Sequence[SpanRow],
    changes: dict[str, Any],
    status: AttemptStatus,
    now: float,
) -> AttemptRow:
    """Store the last spans of an attempt, change its columns and bring it to its final state.

    Raises:
        LeaseLostError: the attempt no longer counts, unless `status` is the one it has: a request that came twice.
    """
    rollout = lock_rollout(ledger, rollout_id)
    attempt = require_attempt(ledger, rollout, attempt_id)
    if transitions.lease_lost(standing_of(rollout, attempt)):
        if status == attempt.status:
            return attempt
        raise lease_error([(rollout, attempt)])
    if spans:
        changes = {"last_heartbeat_time": now, **changes}
    _, after = _insert(ledger, spans, {rollout_id: rollout})
    changed = attempt._replace(**changes)
    moved, attempt = move_attempt(ledger, after[rollout_id], changed, status, now)
    _save_counter(ledger, rollout, moved)
    return attempt


def reserve_sequence_ids(ledger: Ledger, keys: Sequence[AttemptKey]) -> list[int]:
    """One number for each (rollout, attempt), in order.

    Raises:
        NotFoundError: a rollout or attempt is not there.
        LeaseLostError: an attempt that no longer counts.
    """
    before, _ = lock_leases(ledger, keys)
    rows, numbers = dict(before), list[int]()
    for rollout_id, _ in keys:
        row = rows[rollout_id]
        rows[rollout_id] = row._replace(last_sequence_id=row.last_sequence_id + 1)
        numbers.append(rows[rollout_id].last_sequence_id)
    for rollout_id, row in before.items():
        _save_counter(ledger, row, rows[rollout_id])
    return numbers


def spans_of_attempts(ledger: Ledger, keys: Sequence[AttemptKey]) -> dict[str, list[SpanRow]]:
    """Spans by rollout, in order of sequence id.

    Raises:
        NotFoundError: a rollout or attempt is not there, so that training never takes lost spans for none.
    """
    found: dict[str, list[SpanRow]] = {}
    for rollout_id, attempt_id in dict.fromkeys(keys):
        spans = ledger.spans(rollout_id, attempt_id)
        if not spans:
            require_attempt(ledger, require_rollout(ledger, rollout_id), attempt_id)
        found.setdefault(rollout_id, []).extend(spans)
    for spans in found.values():
        spans.sort(key=lambda span: span.sequence_id)
    return found


def query_spans(ledger: Ledger, query: Query) -> Page[SpanRow]:
    """The page of spans; an `attempt_id` of `latest` in the scope is looked up first."""
    if query.scope.get("attempt_id") == "latest":
        rollout = ledger.rollout(query.scope["rollout_id"])
        # No attempt has an empty id, so a rollout without attempts has no spans.
        latest = (rollout.attempt_id if rollout else None) or ""
        query = query._replace(scope={**query.scope, "attempt_id": latest})
    return ledger.query(query)


def _insert(
    ledger: Ledger, spans: Sequence[SpanRow], rollouts: Mapping[str, RolloutRow]
) -> tuple[list[SpanRow], dict[str, RolloutRow]]:
    """Store the spans that are not there yet, numbered; these, and the rollouts with their counters moved on."""
    last = {rollout_id: row.last_sequence_id for rollout_id, row in rollouts.items()}
    # A rollout that has numbered none has none.
    known = ledger.known_spans([_key(span) for span in spans if last[span.rollout_id]])
    stored: list[SpanRow] = []
    for span in spans:
        key = _key(span)
        if key not in known:
            known.add(key)
            number = span.sequence_id or last[span.rollout_id] + 1
            last[span.rollout_id] = max(last[span.rollout_id], number)
            stored.append(span if span.sequence_id else span._replace(sequence_id=number))
    if stored:
        ledger.insert_spans(stored)
    return stored, {rollout_id: row._replace(last_sequence_id=last[rollout_id]) for rollout_id, row in rollouts.items()}


def _key(span: SpanRow) -> SpanKey:
    return span.rollout_id, span.attempt_id, span.span_id


def _save_counter(ledger: Ledger, before: RolloutRow, after: RolloutRow) -> None:
    # A move of the state has saved the counter as well.
    if after.last_sequence_id != before.last_sequence_id and after.status == before.status:
        ledger.move_rollout(after)
