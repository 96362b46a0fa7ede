"""Ends the attempts that are overdue, over any `Ledger`. `home` calls it, at the watchdog's pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentlightning.types import AttemptStatus

from . import transitions
from .ledger import Ledger
from .operations import move_attempt
from .rows import AttemptRow, shared_config
from .transitions import ACTIVE, Limits, Signs


@dataclass(frozen=True, slots=True)
class Watch:
    """What a store knows of its own watch. Times in seconds since the epoch."""

    now: float
    listening_since: float
    worker_timeout: float | None


def expire(ledger: Ledger, watch: Watch) -> list[AttemptRow]:
    """End the active attempts that are overdue; those that were."""
    late = _late(ledger, watch, ledger.active_attempts())
    if not late:
        return []
    # They were looked at without locks, and may be heard of meanwhile: look at those again.
    rollouts = {row.rollout_id: row for row in ledger.lock_rollouts(list({row.rollout_id for row, _ in late}))}
    rows = ledger.attempts([(row.rollout_id, row.attempt_id) for row, _ in late])
    active = [
        (row, rollouts[row.rollout_id].config) for row in rows if row.status in ACTIVE and row.rollout_id in rollouts
    ]
    ended: list[AttemptRow] = []
    for attempt, status in _late(ledger, watch, active):
        rollout = rollouts[attempt.rollout_id]
        rollouts[rollout.rollout_id], row = move_attempt(ledger, rollout, attempt, status, watch.now)
        ended.append(row)
    return ended


def _late(
    ledger: Ledger, watch: Watch, active: Sequence[tuple[AttemptRow, str]]
) -> list[tuple[AttemptRow, AttemptStatus]]:
    names = {row.worker_id for row, _ in active if row.worker_id is not None and watch.worker_timeout is not None}
    heard = {worker.worker_id: worker.last_heartbeat_time for worker in ledger.workers(sorted(names))} if names else {}
    late: list[tuple[AttemptRow, AttemptStatus]] = []
    for row, config in active:
        signs = Signs(row.start_time, row.last_heartbeat_time, heard.get(row.worker_id or ""))
        policy = shared_config(config)
        limits = Limits(policy.timeout_seconds, policy.unresponsive_seconds, watch.worker_timeout)
        status = transitions.overdue(limits, signs, now=watch.now, listening_since=watch.listening_since)
        if status is not None:
            late.append((row, status))
    return late
