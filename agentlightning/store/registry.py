"""What the store does to resources and workers, over any `Ledger`. `home` and `operations` call these."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from agentlightning.types import NotFoundError, WorkerStatus

from . import transitions
from .ledger import Ledger
from .rows import AttemptRow, ResourcesRow, WorkerRow


def check_resources(ledger: Ledger, resources_ids: Iterable[str | None]) -> None:
    """Raises `NotFoundError` for an id that names no resources; `None` is none to check."""
    for resources_id in resources_ids:
        if resources_id is not None and ledger.resources(resources_id) is None:
            latest = latest_resources_id(ledger)
            hint = f"the latest are {latest!r}" if latest else "there are none: call `add_resources` first"
            raise NotFoundError(f"`resources_id` {resources_id!r} is not in the store; {hint}")


def latest_resources_id(ledger: Ledger) -> str | None:
    row = ledger.latest_resources()
    return None if row is None else row.resources_id


def write_resources(ledger: Ledger, resources_id: str | None, resources: str, now: float) -> ResourcesRow:
    """A new version of the resources, under a new id for `None`; it becomes the latest."""
    resources_id = resources_id or "rs-" + secrets.token_hex(6)
    ledger.lock_resources()
    before, latest = ledger.resources(resources_id), ledger.latest_resources()
    row = ResourcesRow(
        resources_id=resources_id,
        create_time=before.create_time if before else now,
        update_time=now,
        version=before.version + 1 if before else 1,
        resources=resources,
        changed=latest.changed + 1 if latest else 1,
    )
    ledger.save_resources(row)
    return row


def worker_heartbeat(ledger: Ledger, worker_id: str, stats: str | None, now: float) -> WorkerRow:
    """Record that the worker is alive; `stats` of `None` keeps the last ones."""
    row = ledger.lock_worker(worker_id) or WorkerRow(worker_id)
    row = row._replace(last_heartbeat_time=now, heartbeat_stats=row.heartbeat_stats if stats is None else stats)
    ledger.save_worker(row)
    return row


def worker_dequeued(ledger: Ledger, worker_id: str, attempt: AttemptRow | None, now: float) -> None:
    """The worker asked for work and got `attempt`, or nothing."""
    row = (ledger.lock_worker(worker_id) or WorkerRow(worker_id))._replace(last_dequeue_time=now)
    attempt = attempt or ledger.newest_active_attempt(worker_id)
    ledger.save_worker(_set(row, "busy" if attempt else "idle", attempt, now))


def settle_worker(ledger: Ledger, attempt: AttemptRow, now: float) -> None:
    """Let the worker follow the state of its attempt."""
    if attempt.worker_id is None:
        return
    row = ledger.lock_worker(attempt.worker_id) or WorkerRow(attempt.worker_id)
    current = attempt if attempt.status in transitions.ACTIVE else ledger.newest_active_attempt(attempt.worker_id)
    status = transitions.worker_after_attempt(attempt.status, has_other=current is not None)
    ledger.save_worker(_set(row, status, current, now))


def release_worker(ledger: Ledger, worker_id: str, now: float) -> None:
    """The worker lost an attempt that goes on without it."""
    row = ledger.lock_worker(worker_id) or WorkerRow(worker_id)
    current = ledger.newest_active_attempt(worker_id)
    ledger.save_worker(_set(row, "busy" if current else "idle", current, now))


def _set(row: WorkerRow, status: WorkerStatus, current: AttemptRow | None, now: float) -> WorkerRow:
    return row._replace(
        status=status,
        last_busy_time=now if status == "busy" else row.last_busy_time,
        last_idle_time=now if status == "idle" else row.last_idle_time,
        current_rollout_id=current.rollout_id if current else None,
        current_attempt_id=current.attempt_id if current else None,
    )
