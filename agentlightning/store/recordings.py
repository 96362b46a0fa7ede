"""What is recorded of the results of keyed requests (`replies`), and how the result comes of it again. For `home`.

A request that comes again has the same arguments, so that only what the store itself chose is written down: ids, times,
numbers. That keeps replies at some hundred bytes whatever the size of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning.types import ConflictError

from . import operations
from .ledger import Ledger
from .operations import AttemptedRow, Pair, new_attempt, new_rollouts
from .replies import Form, Reply, read_reply, write_reply
from .rows import AttemptRow, Draft, ResourcesRow, RolloutRow

DEQUEUE: Final = "dequeue_many_rollouts"


def created(drafts: Sequence[Draft]) -> Form[list[RolloutRow]]:
    """Of `operations.create`."""

    def note(rows: list[RolloutRow]) -> Any:
        latest = next(
            (row.resources_id for row, draft in zip(rows, drafts, strict=True) if not draft.resources_id), None
        )
        return [rows[0].start_time, latest, [row.rollout_id for row in rows]] if rows else None

    def read(ledger: Ledger, noted: Any) -> list[RolloutRow]:
        start_time, latest, ids = noted
        return new_rollouts(ids, drafts, latest, start_time, "queuing")

    return Form(note, read)


def started(draft: Draft, worker_id: str | None) -> Form[AttemptedRow]:
    """Of `operations.start_rollout`."""

    def note(pair: AttemptedRow) -> Any:
        row, attempt = pair
        return [row.start_time, row.resources_id, row.rollout_id, attempt.attempt_id, attempt.start_time]

    def read(ledger: Ledger, noted: Any) -> AttemptedRow:
        start_time, latest, rollout_id, attempt_id, attempt_start = noted
        (row,) = new_rollouts([rollout_id], [draft], latest, start_time, "preparing")
        attempt = new_attempt(rollout_id, attempt_id, 1, worker_id, attempt_start)
        return row._replace(attempts=1, attempt_id=attempt_id), attempt

    return Form(note, read)


def dequeued(worker_id: str | None) -> Form[list[AttemptedRow]]:
    """Of `operations.dequeue`. That nothing was there is not worth recording: next time there may be."""

    def note(pairs: list[AttemptedRow]) -> Any:
        return [_note_attempt(pair) for pair in pairs] or None

    def read(ledger: Ledger, noted: Any) -> list[AttemptedRow]:
        rows = {row.rollout_id: row for row in ledger.rollouts([rollout_id for rollout_id, *_ in noted])}
        return [_as_begun(rows[each[0]], each, worker_id) for each in noted if each[0] in rows]

    return Form(note, read)


def begun(worker_id: str | None) -> Form[AttemptedRow]:
    """Of `operations.start_attempt`."""

    def read(ledger: Ledger, noted: Any) -> AttemptedRow:
        return _as_begun(operations.require_rollout(ledger, noted[0]), noted, worker_id)

    return Form(_note_attempt, read)


def changed(rollout_id: str) -> Form[Pair]:
    """Of `operations.update_rollout`. Who asks again sees the rollout as it is now."""

    def note(pair: Pair) -> Any:
        return True

    def read(ledger: Ledger, noted: Any) -> Pair:
        return operations.require_pair(ledger, rollout_id)

    return Form(note, read)


def changed_attempt(rollout_id: str) -> Form[AttemptRow]:
    """Of `operations.update_attempt` of the latest attempt: which that was. It comes as it is now."""

    def note(attempt: AttemptRow) -> Any:
        return attempt.attempt_id

    def read(ledger: Ledger, noted: Any) -> AttemptRow:
        return operations.require_attempt(ledger, operations.require_rollout(ledger, rollout_id), noted)

    return Form(note, read)


def written(resources: str) -> Form[ResourcesRow]:
    """Of `registry.write_resources`."""

    def note(row: ResourcesRow) -> Any:
        return [row.resources_id, row.create_time, row.update_time, row.version, row.changed]

    def read(ledger: Ledger, noted: Any) -> ResourcesRow:
        resources_id, create_time, update_time, version, changed = noted
        return ResourcesRow(resources_id, create_time, update_time, version, resources, changed)

    return Form(note, read)


def release(ledger: Ledger, key: str, now: float) -> int:
    """Give back what was dequeued under `key`, and let it take nothing from now on; how many were given back.

    Raises:
        ConflictError: `key` is that of another method.
    """
    reply = read_reply(ledger, key)
    if reply is not None and reply.name != DEQUEUE:
        raise ConflictError(f"idempotency key {key!r} is of `{reply.name}`; only what was dequeued can be given back")
    write_reply(ledger, key, Reply(DEQUEUE, None, []), now)
    taken = [] if reply is None else [(rollout_id, attempt_id) for rollout_id, attempt_id, *_ in reply.result]
    return operations.give_back(ledger, taken, now)


def undo_dequeue(ledger: Ledger, taken: Sequence[AttemptedRow], key: str | None, now: float) -> None:
    """Give back what a caller who went away never got; asked again under its key, it is served anew."""
    operations.give_back(ledger, [(attempt.rollout_id, attempt.attempt_id) for _, attempt in taken], now)
    if key is not None:
        ledger.drop_reply(key)


def _note_attempt(pair: AttemptedRow) -> list[Any]:
    _, attempt = pair
    return [attempt.rollout_id, attempt.attempt_id, attempt.sequence_id, attempt.start_time]


def _as_begun(row: RolloutRow, noted: Any, worker_id: str | None) -> AttemptedRow:
    """The rollout and its attempt as they were when it began."""
    rollout_id, attempt_id, sequence_id, start_time = noted
    row = row._replace(status="preparing", end_time=None, attempts=sequence_id, attempt_id=attempt_id)
    return row, new_attempt(rollout_id, attempt_id, sequence_id, worker_id, start_time)
