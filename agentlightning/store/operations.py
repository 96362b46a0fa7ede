"""What the store does to rollouts and attempts, over any `Ledger`.

`home` calls these. The rest is in `span_operations`, in `registry` (resources and workers) and in `overdue` (the scan).

Each function is one transaction: it checks everything before it writes, and locks the rollouts that it writes, or whose
attempts it writes. `now` is in seconds since the epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from typing import Any, Literal

from agentlightning.types import (
    TERMINAL_ATTEMPT,
    TERMINAL_ROLLOUT,
    AttemptStatus,
    LeaseLostError,
    NotFoundError,
    RolloutStatus,
)

from . import transitions
from .base import Unset
from .ledger import Ledger
from .query import Query
from .registry import check_resources, latest_resources_id, release_worker, settle_worker, worker_dequeued
from .rows import AttemptRow, Draft, RolloutRow, shared_config
from .transitions import ACTIVE, QUEUED, Standing

Pair = tuple[RolloutRow, AttemptRow | None]
"""A rollout with its latest attempt, if any."""
AttemptedRow = tuple[RolloutRow, AttemptRow]
AttemptKey = tuple[str, str]
"""(rollout_id, attempt_id)."""


def create(ledger: Ledger, drafts: Sequence[Draft], now: float, *, to_queue: bool = True) -> list[RolloutRow]:
    """New rollouts, at the end of the queue unless `to_queue` is false: then one that begins at once.

    Raises:
        NotFoundError: a draft names resources that are not there.
    """
    check_resources(ledger, {draft.resources_id for draft in drafts})
    latest = latest_resources_id(ledger) if any(draft.resources_id is None for draft in drafts) else None
    ids = _new_rollout_ids(ledger, len(drafts))
    rows = new_rollouts(ids, drafts, latest, now, "queuing" if to_queue else "preparing")
    ledger.insert_rollouts(rows)
    if to_queue:
        ledger.enqueue(ids)
        ledger.effects.queued += len(rows)
    return rows


def start_rollout(ledger: Ledger, draft: Draft, worker_id: str | None, now: float) -> AttemptedRow:
    """A new rollout that never was in the queue, with attempt 1."""
    (row,) = create(ledger, [draft], now, to_queue=False)
    return _begin_and_settle(ledger, row, worker_id, now)


def dequeue(ledger: Ledger, limit: int, worker_id: str | None, now: float) -> list[AttemptedRow]:
    """Up to `limit` rollouts from the front of the queue, each with a new attempt."""
    order = ledger.take_queued(limit)
    rows = {row.rollout_id: row for row in ledger.rollouts(order)}
    taken = [_begin_attempt(ledger, rows[rollout_id], worker_id, now) for rollout_id in order]
    if worker_id is not None:
        worker_dequeued(ledger, worker_id, taken[-1][1] if taken else None, now)
    return taken


def give_back(ledger: Ledger, taken: Sequence[AttemptKey], now: float) -> int:
    """Undo a `dequeue` whose caller went away before it got the answer; how many rollouts are in the queue again."""
    rows = {row.rollout_id: row for row in ledger.lock_rollouts([rollout_id for rollout_id, _ in taken])}
    given = 0
    for rollout_id, attempt_id in taken:
        row, attempt = rows.get(rollout_id), ledger.attempt(rollout_id, attempt_id)
        if row is None or attempt is None or not _untouched(row, attempt):
            continue  # somebody has dealt with it since
        ledger.delete_attempt(rollout_id, attempt_id)
        earlier = _latest_attempt(ledger, rollout_id)
        row = row._replace(attempts=row.attempts - 1, attempt_id=earlier and earlier.attempt_id)
        _move(ledger, row, "requeuing" if earlier else "queuing", now)
        if attempt.worker_id is not None:
            release_worker(ledger, attempt.worker_id, now)
        given += 1
    return given


def start_attempt(ledger: Ledger, rollout_id: str, worker_id: str | None, now: float) -> AttemptedRow:
    """Another attempt, in the queue or not, terminal or not. One that is under way ends as `unresponsive`."""
    row = lock_rollout(ledger, rollout_id)
    if row.status in QUEUED:
        ledger.unqueue(rollout_id)
    return _begin_and_settle(ledger, row, worker_id, now)


def update_rollout(
    ledger: Ledger, rollout_id: str, changes: dict[str, Any], status: RolloutStatus | Unset, now: float
) -> Pair:
    """Change columns of a rollout, then its state. An attempt under way ends with it."""
    row = lock_rollout(ledger, rollout_id)
    check_resources(ledger, {changes.get("resources_id")})
    to = row.status if isinstance(status, Unset) else transitions.rollout_by_request(row.status, status)
    if changes:
        row = row._replace(**changes)
        ledger.save_rollout(row)
    ends_as = transitions.attempt_after_rollout(to)
    if to != row.status and ends_as is not None:
        _end_active(ledger, row, ends_as, now)
    return _with_attempt(ledger, _move(ledger, row, to, now))


def update_attempt(
    ledger: Ledger,
    rollout_id: str,
    attempt_id: str | Literal["latest"],
    changes: dict[str, Any],
    status: AttemptStatus | Unset,
    now: float,
) -> AttemptRow:
    """Change columns of an attempt, then its state and its rollout's. No change at all is a heartbeat.

    Raises:
        LeaseLostError: the attempt no longer counts, unless `status` is the one it has: a request that came twice.
    """
    rollout = lock_rollout(ledger, rollout_id)
    attempt = require_attempt(ledger, rollout, attempt_id)
    if transitions.lease_lost(standing_of(rollout, attempt)):
        if status == attempt.status:
            return attempt
        raise lease_error([(rollout, attempt)])
    if not changes and isinstance(status, Unset) and attempt.status in ACTIVE:
        changes = {"last_heartbeat_time": now}
    before = attempt.worker_id
    attempt = attempt._replace(**changes)
    attempt = move_attempt(ledger, rollout, attempt, None if isinstance(status, Unset) else status, now)[1]
    if attempt.worker_id != before:
        settle_worker(ledger, attempt, now)
        if before is not None:
            release_worker(ledger, before, now)
    return attempt


def finished(ledger: Ledger, rollout_ids: Sequence[str]) -> tuple[list[Pair], set[str]]:
    """The rollouts that are terminal, with their attempts, and the ids of those that are not."""
    rows = ledger.rollouts(rollout_ids)
    done = [row for row in rows if row.status in TERMINAL_ROLLOUT]
    return _with_attempts(ledger, done), {row.rollout_id for row in rows if row.status not in TERMINAL_ROLLOUT}


def trim(ledger: Ledger, retention: int, limit: int, awaited: Collection[str]) -> int:
    """Drop up to `limit` ended rollouts beyond the newest `retention`, not those `awaited`; how many."""
    candidates = ledger.ended(retention, limit + len(awaited))
    rows = ledger.lock_rollouts([rollout_id for rollout_id in candidates if rollout_id not in awaited][:limit])
    ids = [row.rollout_id for row in rows if row.status in TERMINAL_ROLLOUT]
    ledger.drop_rollouts(ids)
    return len(ids)


# -- shared with the other operations --------------------------------------------------------------------------------


def new_rollouts(
    ids: Sequence[str], drafts: Sequence[Draft], latest: str | None, now: float, status: RolloutStatus
) -> list[RolloutRow]:
    """Rows of new rollouts; `latest` are the resources of those that name none."""
    return [
        RolloutRow(
            rollout_id=rollout_id,
            input=draft.input,
            start_time=now,
            end_time=None,
            mode=draft.mode,
            resources_id=draft.resources_id or latest,
            status=status,
            config=draft.config,
            metadata=draft.metadata,
            attempts=0,
            attempt_id=None,
            last_sequence_id=0,
        )
        for rollout_id, draft in zip(ids, drafts, strict=True)
    ]


def new_attempt(rollout_id: str, attempt_id: str, sequence_id: int, worker_id: str | None, now: float) -> AttemptRow:
    """Row of an attempt that begins."""
    return AttemptRow(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        sequence_id=sequence_id,
        start_time=now,
        end_time=None,
        status="preparing",
        worker_id=worker_id,
        last_heartbeat_time=None,
        metadata=None,
    )


def move_attempt(
    ledger: Ledger, rollout: RolloutRow, attempt: AttemptRow, status: AttemptStatus | None, now: float
) -> AttemptedRow:
    """Save the attempt, in `status` if that is given and may be, and let its rollout and worker follow."""
    standing = standing_of(rollout, attempt)
    if status is None or not transitions.attempt_may_become(standing.attempt, status):
        ledger.save_attempt(attempt)
        return rollout, attempt
    if status != attempt.status:
        attempt = attempt._replace(status=status, end_time=now if status in TERMINAL_ATTEMPT else None)
    ledger.save_attempt(attempt)
    if status != standing.attempt and status not in ACTIVE:  # else its worker is busy with it, and stays so
        settle_worker(ledger, attempt, now)
    to = transitions.rollout_after_attempt(standing, status, attempt.sequence_id, shared_config(rollout.config))
    return _move(ledger, rollout, to, now), attempt


def standing_of(rollout: RolloutRow, attempt: AttemptRow) -> Standing:
    return Standing(attempt.status, rollout.status, rollout.attempt_id == attempt.attempt_id)


def lock_leases(ledger: Ledger, keys: Sequence[AttemptKey]) -> tuple[dict[str, RolloutRow], list[AttemptRow]]:
    """The rollouts, locked, and the attempts of those who want to write.

    Raises:
        NotFoundError: a rollout or attempt is not there.
        LeaseLostError: some of the attempts no longer count.
    """
    keys = list(dict.fromkeys(keys))
    rollout_ids = list(dict.fromkeys(rollout_id for rollout_id, _ in keys))
    rollouts = {row.rollout_id: row for row in ledger.lock_rollouts(rollout_ids)}
    found = {(row.rollout_id, row.attempt_id): row for row in ledger.attempts(keys)}
    for rollout_id, attempt_id in keys:
        if rollout_id not in rollouts:
            raise _no_rollout(rollout_id)
        if (rollout_id, attempt_id) not in found:
            raise _no_attempt(rollouts[rollout_id], attempt_id)
    attempts = [found[key] for key in keys]
    pairs = [(rollouts[attempt.rollout_id], attempt) for attempt in attempts]
    lost = [pair for pair in pairs if transitions.lease_lost(standing_of(*pair))]
    if lost:
        raise lease_error(lost)
    return rollouts, attempts


def lease_error(lost: Sequence[AttemptedRow]) -> LeaseLostError:
    """Says of the first which it is and what became of it, and of all which they are."""
    rollout, attempt = lost[0]
    others = f" (and {len(lost) - 1} more of this call)" if len(lost) > 1 else ""
    return LeaseLostError(
        f"attempt {attempt.attempt_id!r} of rollout {attempt.rollout_id!r} no longer counts: "
        f"{transitions.why_lost(standing_of(rollout, attempt))}{others}; nothing was written, stop the agent",
        [(attempt.rollout_id, attempt.attempt_id) for _, attempt in lost],
    )


def lock_rollout(ledger: Ledger, rollout_id: str) -> RolloutRow:
    """Raises `NotFoundError` where there is no such rollout."""
    rows = ledger.lock_rollouts([rollout_id])
    if not rows:
        raise _no_rollout(rollout_id)
    return rows[0]


def require_rollout(ledger: Ledger, rollout_id: str) -> RolloutRow:
    """Raises `NotFoundError` where there is no such rollout."""
    row = ledger.rollout(rollout_id)
    if row is None:
        raise _no_rollout(rollout_id)
    return row


def require_attempt(ledger: Ledger, rollout: RolloutRow, attempt_id: str | Literal["latest"]) -> AttemptRow:
    """Raises `NotFoundError` where there is no such attempt."""
    wanted = rollout.attempt_id if attempt_id == "latest" else attempt_id
    row = None if wanted is None else ledger.attempt(rollout.rollout_id, wanted)
    if row is None:
        raise _no_attempt(rollout, attempt_id)
    return row


def find(ledger: Ledger, rollout_id: str) -> Pair | None:
    row = ledger.rollout(rollout_id)
    return None if row is None else _with_attempt(ledger, row)


def require_pair(ledger: Ledger, rollout_id: str) -> Pair:
    """Raises `NotFoundError` where there is no such rollout."""
    return _with_attempt(ledger, require_rollout(ledger, rollout_id))


def query_rollouts(ledger: Ledger, query: Query) -> tuple[list[Pair], int]:
    """The page of rollouts, and how many match in all."""
    page = ledger.query(query)
    return _with_attempts(ledger, page.rows), page.total


# -- parts ------------------------------------------------------------------------------------------------------------


def _no_rollout(rollout_id: str) -> NotFoundError:
    return NotFoundError(f"`rollout_id` {rollout_id!r} is not in the store: it never was, or retention dropped it")


def _no_attempt(rollout: RolloutRow, attempt_id: str) -> NotFoundError:
    known = f"its latest attempt is {rollout.attempt_id!r}" if rollout.attempt_id else "it has no attempt yet"
    return NotFoundError(f"`attempt_id` {attempt_id!r} is no attempt of rollout {rollout.rollout_id!r}; {known}")


def _with_attempt(ledger: Ledger, row: RolloutRow) -> Pair:
    return row, None if row.attempt_id is None else ledger.attempt(row.rollout_id, row.attempt_id)


def _with_attempts(ledger: Ledger, rows: Sequence[RolloutRow]) -> list[Pair]:
    """The rollouts with their latest attempts, in the same order."""
    ids = [(row.rollout_id, row.attempt_id) for row in rows if row.attempt_id is not None]
    attempts = {attempt.rollout_id: attempt for attempt in ledger.attempts(ids)} if ids else {}
    return [(row, attempts.get(row.rollout_id)) for row in rows]


def _begin_attempt(ledger: Ledger, row: RolloutRow, worker_id: str | None, now: float) -> AttemptedRow:
    _end_active(ledger, row, "unresponsive", now)
    # Short, so it may occur in another rollout too: an attempt is always named together with its rollout.
    attempt = new_attempt(row.rollout_id, "at-" + secrets.token_hex(4), row.attempts + 1, worker_id, now)
    ledger.insert_attempt(attempt)
    row = row._replace(status="preparing", end_time=None, attempts=attempt.sequence_id, attempt_id=attempt.attempt_id)
    ledger.move_rollout(row)
    return row, attempt


def _begin_and_settle(ledger: Ledger, row: RolloutRow, worker_id: str | None, now: float) -> AttemptedRow:
    pair = _begin_attempt(ledger, row, worker_id, now)
    settle_worker(ledger, pair[1], now)
    return pair


def _end_active(ledger: Ledger, row: RolloutRow, status: AttemptStatus, now: float) -> None:
    """End the attempt that is under way, if there is one. Its rollout stays as it is."""
    attempt = None if row.attempt_id is None else ledger.attempt(row.rollout_id, row.attempt_id)
    if attempt is not None and attempt.status in ACTIVE:
        attempt = attempt._replace(status=status, end_time=now)
        ledger.save_attempt(attempt)
        settle_worker(ledger, attempt, now)


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


def _untouched(row: RolloutRow, attempt: AttemptRow) -> bool:
    """Whether nobody has written to an attempt since it began."""
    return (
        (row.status, row.attempt_id) == ("preparing", attempt.attempt_id)
        and attempt.status == "preparing"
        and attempt.last_heartbeat_time is None
    )


def _new_rollout_ids(ledger: Ledger, count: int) -> list[str]:
    while True:
        ids = ["ro-" + secrets.token_hex(6) for _ in range(count)]
        if len(set(ids)) == count and not ledger.rollouts(ids):
            return ids


def _latest_attempt(ledger: Ledger, rollout_id: str) -> AttemptRow | None:
    found = ledger.query(Query("attempts", {"rollout_id": rollout_id}, (), "and", "sequence_id", "desc", 1, 0))
    return found.rows[0] if found.rows else None
