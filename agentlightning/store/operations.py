"""What the store does to rollouts and attempts, over any `Ledger`.

`home` calls these. The rest is in `span_operations`, and in `registry` (resources and workers).

Each function is one transaction: it checks everything before it writes. `now` is in seconds since the epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal

from agentlightning.types import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT, AttemptStatus, RolloutStatus

from . import transitions
from .base import Unset
from .ledger import Ledger
from .query import Query
from .registry import check_resources, latest_resources_id, release_worker, settle_worker, worker_dequeued
from .rows import AttemptRow, Draft, RolloutRow, decode_config
from .transitions import QUEUED, Standing

Pair = tuple[RolloutRow, AttemptRow | None]
"""A rollout with its latest attempt, if any."""
AttemptedRow = tuple[RolloutRow, AttemptRow]


def create(ledger: Ledger, drafts: Sequence[Draft], now: float, *, to_queue: bool = True) -> list[RolloutRow]:
    """New rollouts, at the end of the queue unless `to_queue` is false: then one that begins at once.

    Raises:
        ValueError: a draft names resources that are not there.
    """
    check_resources(ledger, {draft.resources_id for draft in drafts})
    latest = latest_resources_id(ledger) if any(draft.resources_id is None for draft in drafts) else None
    rows = [
        RolloutRow(
            rollout_id=_new_rollout_id(ledger),
            input=draft.input,
            start_time=now,
            end_time=None,
            mode=draft.mode,
            resources_id=draft.resources_id or latest,
            status="queuing" if to_queue else "preparing",
            config=draft.config,
            metadata=draft.metadata,
            attempts=0,
            attempt_id=None,
            last_sequence_id=0,
        )
        for draft in drafts
    ]
    ledger.insert_rollouts(rows)
    if to_queue:
        ledger.enqueue(row.rollout_id for row in rows)
        ledger.effects.queued += len(rows)
    return rows


def start_rollout(ledger: Ledger, draft: Draft, worker_id: str | None, now: float) -> AttemptedRow:
    """A new rollout that never was in the queue, with attempt 1."""
    (row,) = create(ledger, [draft], now, to_queue=False)
    return start_attempt(ledger, row.rollout_id, worker_id, now)


def dequeue(ledger: Ledger, limit: int, worker_id: str | None, now: float) -> list[AttemptedRow]:
    """Up to `limit` rollouts from the front of the queue, each with a new attempt."""
    order = ledger.take_queued(limit)
    rows = {row.rollout_id: row for row in ledger.rollouts(order)}
    taken = [_begin_attempt(ledger, rows[rollout_id], worker_id, now) for rollout_id in order]
    if worker_id is not None:
        worker_dequeued(ledger, worker_id, taken[-1][1] if taken else None, now)
    return taken


def give_back(ledger: Ledger, taken: Sequence[AttemptedRow], now: float) -> None:
    """Undo a `dequeue` whose caller went away before it got the answer."""
    for row, attempt in taken:
        current = ledger.rollout(row.rollout_id)
        if current is None or current != row:
            continue  # somebody else has dealt with it since
        ledger.delete_attempt(attempt.rollout_id, attempt.attempt_id)
        earlier = _latest_attempt(ledger, row.rollout_id)
        current = current._replace(attempts=current.attempts - 1, attempt_id=earlier and earlier.attempt_id)
        _move(ledger, current, "requeuing" if earlier else "queuing", now)
        if attempt.worker_id is not None:
            release_worker(ledger, attempt.worker_id, now)


def start_attempt(ledger: Ledger, rollout_id: str, worker_id: str | None, now: float) -> AttemptedRow:
    """Another attempt, in the queue or not, terminal or not."""
    row = require_rollout(ledger, rollout_id)
    if row.status in QUEUED:
        ledger.unqueue(rollout_id)
    pair = _begin_attempt(ledger, row, worker_id, now)
    settle_worker(ledger, pair[1], now)
    return pair


def update_rollout(
    ledger: Ledger, rollout_id: str, changes: dict[str, Any], status: RolloutStatus | Unset, now: float
) -> Pair:
    """Change columns of a rollout, then its state."""
    row = require_rollout(ledger, rollout_id)
    check_resources(ledger, {changes.get("resources_id")})
    to = row.status if isinstance(status, Unset) else transitions.rollout_by_request(row.status, status)
    if changes:
        row = row._replace(**changes)
        ledger.save_rollout(row)
    return _with_attempt(ledger, _move(ledger, row, to, now))


def update_attempt(
    ledger: Ledger,
    rollout_id: str,
    attempt_id: str | Literal["latest"],
    changes: dict[str, Any],
    status: AttemptStatus | Unset,
    now: float,
) -> AttemptRow:
    """Change columns of an attempt, then its state and, where it owns it, its rollout's."""
    rollout = require_rollout(ledger, rollout_id)
    attempt = require_attempt(ledger, rollout, attempt_id)
    before = attempt.worker_id
    attempt = attempt._replace(**changes)
    attempt = move_attempt(ledger, rollout, attempt, None if isinstance(status, Unset) else status, now)[1]
    if attempt.worker_id != before:
        settle_worker(ledger, attempt, now)
        if before is not None:
            release_worker(ledger, before, now)
    return attempt


def expire(ledger: Ledger, now: float) -> list[AttemptRow]:
    """End the active attempts that are overdue."""
    active = ledger.active_attempts()
    rollouts = {row.rollout_id: row for row in ledger.rollouts(list({attempt.rollout_id for attempt in active}))}
    ended: list[AttemptRow] = []
    for attempt in active:
        rollout = rollouts[attempt.rollout_id]
        status = transitions.overdue(
            decode_config(rollout.config),
            start_time=attempt.start_time,
            last_heartbeat_time=attempt.last_heartbeat_time,
            now=now,
        )
        if status is not None:
            rollouts[rollout.rollout_id], row = move_attempt(ledger, rollout, attempt, status, now)
            ended.append(row)
    return ended


def finished(ledger: Ledger, rollout_ids: Sequence[str]) -> tuple[list[Pair], set[str]]:
    """The rollouts that are terminal, with their attempts, and the ids of those that are not."""
    rows = ledger.rollouts(rollout_ids)
    done = [row for row in rows if row.status in TERMINAL_ROLLOUT]
    return _with_attempts(ledger, done), {row.rollout_id for row in rows if row.status not in TERMINAL_ROLLOUT}


def move_attempt(
    ledger: Ledger, rollout: RolloutRow, attempt: AttemptRow, status: AttemptStatus | None, now: float
) -> AttemptedRow:
    """Save the attempt, in `status` if that is given and may be, and let its rollout and worker follow."""
    standing = standing_of(rollout, attempt)
    if status is None or not transitions.attempt_may_become(standing, status):
        ledger.save_attempt(attempt)
        return rollout, attempt
    if status != attempt.status:
        attempt = attempt._replace(status=status, end_time=now if status in TERMINAL_ATTEMPT else None)
    ledger.save_attempt(attempt)
    if status != standing.attempt:
        settle_worker(ledger, attempt, now)
    to = transitions.rollout_after_attempt(standing, status, attempt.sequence_id, decode_config(rollout.config))
    return _move(ledger, rollout, to, now), attempt


def standing_of(rollout: RolloutRow, attempt: AttemptRow) -> Standing:
    return Standing(attempt.status, rollout.status, rollout.attempt_id == attempt.attempt_id)


def require_rollout(ledger: Ledger, rollout_id: str) -> RolloutRow:
    """Raises `ValueError` where there is no such rollout."""
    row = ledger.rollout(rollout_id)
    if row is None:
        raise ValueError(f"`rollout_id` {rollout_id!r} is not in the store: it never was, or retention dropped it")
    return row


def require_attempt(ledger: Ledger, rollout: RolloutRow, attempt_id: str | Literal["latest"]) -> AttemptRow:
    """Raises `ValueError` where there is no such attempt."""
    wanted = rollout.attempt_id if attempt_id == "latest" else attempt_id
    row = None if wanted is None else ledger.attempt(rollout.rollout_id, wanted)
    if row is None:
        known = f"its latest attempt is {rollout.attempt_id!r}" if rollout.attempt_id else "it has no attempt yet"
        raise ValueError(f"`attempt_id` {attempt_id!r} is no attempt of rollout {rollout.rollout_id!r}; {known}")
    return row


def find(ledger: Ledger, rollout_id: str) -> Pair | None:
    row = ledger.rollout(rollout_id)
    return None if row is None else _with_attempt(ledger, row)


def query_rollouts(ledger: Ledger, query: Query) -> tuple[list[Pair], int]:
    """The page of rollouts, and how many match in all."""
    page = ledger.query(query)
    return _with_attempts(ledger, page.rows), page.total


def _with_attempt(ledger: Ledger, row: RolloutRow) -> Pair:
    return row, None if row.attempt_id is None else ledger.attempt(row.rollout_id, row.attempt_id)


def _with_attempts(ledger: Ledger, rows: Sequence[RolloutRow]) -> list[Pair]:
    """The rollouts with their latest attempts, in the same order."""
    ids = [(row.rollout_id, row.attempt_id) for row in rows if row.attempt_id is not None]
    attempts = {(attempt.rollout_id, attempt.attempt_id): attempt for attempt in ledger.attempts(ids)}
    return [(row, attempts.get((row.rollout_id, row.attempt_id or ""))) for row in rows]


def _begin_attempt(ledger: Ledger, row: RolloutRow, worker_id: str | None, now: float) -> AttemptedRow:
    attempt = AttemptRow(
        rollout_id=row.rollout_id,
        # Short, so it may occur in another rollout too: an attempt is always named together with its rollout.
        attempt_id="at-" + secrets.token_hex(4),
        sequence_id=row.attempts + 1,
        start_time=now,
        end_time=None,
        status="preparing",
        worker_id=worker_id,
        last_heartbeat_time=None,
        metadata=None,
    )
    ledger.insert_attempt(attempt)
    row = row._replace(status="preparing", end_time=None, attempts=attempt.sequence_id, attempt_id=attempt.attempt_id)
    ledger.move_rollout(row)
    return row, attempt


def _move(ledger: Ledger, row: RolloutRow, status: RolloutStatus, now: float) -> RolloutRow:
    """Bring a rollout to `status`: its place in the queue, its `end_time` and those who wait follow."""
    if status == row.status:
        return row
    if status in QUEUED and row.status not in QUEUED:
        ledger.enqueue([row.rollout_id])
        ledger.effects.queued += 1
    if status not in QUEUED and row.status in QUEUED:
        ledger.unqueue(row.rollout_id)
    if status in TERMINAL_ROLLOUT:
        ledger.effects.ended.append(row.rollout_id)
    row = row._replace(status=status, end_time=now if status in TERMINAL_ROLLOUT else None)
    ledger.move_rollout(row)
    return row


def _new_rollout_id(ledger: Ledger) -> str:
    while ledger.rollout(rollout_id := "ro-" + secrets.token_hex(6)) is not None:
        pass
    return rollout_id


def _latest_attempt(ledger: Ledger, rollout_id: str) -> AttemptRow | None:
    found = ledger.query(Query("attempts", {"rollout_id": rollout_id}, (), "and", "sequence_id", "desc", 1, 0))
    return found.rows[0] if found.rows else None
