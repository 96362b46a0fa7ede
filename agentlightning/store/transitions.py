"""The state machine of rollouts, attempts and workers, as data and pure functions.

`operations` calls these for every home, so that no home has rules of its own. Source: the project's notes on
Agent-Lightning 0.3, section 5, with these points made strict:

- An attempt is a lease. It is lost once a newer attempt began, once the store gave the attempt up (`timeout`,
  `unresponsive`), and once its rollout is in the queue again or cancelled. Nothing that its worker writes counts then.
- All four ends of an attempt are final. The first one counts.
- An attempt is under way only while it is the latest of a rollout that is neither queued nor terminal.
- A terminal rollout stays as it is, whatever attempts report. Only an explicit `queuing` or `requeuing` of
  `update_rollout`, or `start_attempt`, opens it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from agentlightning.types import (
    TERMINAL_ATTEMPT,
    TERMINAL_ROLLOUT,
    AttemptStatus,
    ConflictError,
    RolloutConfig,
    RolloutStatus,
    WorkerStatus,
)

QUEUED: Final = frozenset({"queuing", "requeuing"})
"""Rollout states that have a place in the queue."""
ACTIVE: Final = frozenset({"preparing", "running"})
"""Attempt states of which a worker is in charge."""


class Standing(NamedTuple):
    """An attempt and its rollout, as far as transitions depend on them."""

    attempt: AttemptStatus
    rollout: RolloutStatus
    is_latest: bool


def lease_lost(standing: Standing) -> bool:
    """Whether the attempt no longer counts, so that its worker has to stop."""
    return why_lost(standing) is not None


def why_lost(standing: Standing) -> str | None:
    """What became of an attempt whose lease is lost, as the rest of a sentence; `None` while it is held."""
    if standing.attempt == "timeout":
        return "it ran longer than it may (`timeout`)"
    if standing.attempt == "unresponsive":
        return "its worker was taken for gone (`unresponsive`)"
    if not standing.is_latest:
        return "a newer attempt has taken its place"
    if standing.rollout == "cancelled":
        return "its rollout is cancelled"
    if standing.rollout in QUEUED:
        return f"its rollout is in the queue again (`{standing.rollout}`)"
    return None


def attempt_may_become(current: AttemptStatus, status: AttemptStatus) -> bool:
    """Whether a report of `status` counts, from a worker that holds its lease."""
    return current == status or current not in TERMINAL_ATTEMPT


def attempt_after_span(current: AttemptStatus) -> AttemptStatus:
    """A span shows that the attempt is running, unless it has ended."""
    return "running" if current in ACTIVE else current


def attempt_after_rollout(status: RolloutStatus) -> AttemptStatus | None:
    """How an attempt under way ends when its rollout is brought to `status` by hand; `None`: it goes on."""
    if status == "succeeded":
        return "succeeded"
    return "failed" if status in TERMINAL_ROLLOUT or status in QUEUED else None


def rollout_after_attempt(
    standing: Standing, status: AttemptStatus, sequence_id: int, config: RolloutConfig
) -> RolloutStatus:
    """State of the rollout once its attempt has moved to `status`.

    Args:
        standing: How things were before.
        status: A state that `attempt_may_become` allows.
        sequence_id: Number of the attempt, from 1.
        config: The rollout's `retry_condition` and `max_attempts`.
    """
    if not standing.is_latest or standing.rollout in TERMINAL_ROLLOUT:
        return standing.rollout
    if status == standing.attempt and status in TERMINAL_ATTEMPT:
        return standing.rollout  # said before; the rollout may have been requeued since
    return rollout_from_attempt(status, sequence_id, config)


def rollout_from_attempt(status: AttemptStatus, sequence_id: int, config: RolloutConfig) -> RolloutStatus:
    """What an attempt that owns its rollout makes of it by moving to `status`."""
    if status in ("preparing", "running", "succeeded"):
        return status
    return "requeuing" if status in config.retry_condition and sequence_id < config.max_attempts else "failed"


def rollout_by_request(current: RolloutStatus, status: RolloutStatus) -> RolloutStatus:
    """State of a rollout after an explicit `update_rollout(status=...)`.

    The first terminal state wins: cancelling what has just succeeded leaves it succeeded.

    Raises:
        ConflictError: `status` would reopen a terminal rollout without queueing it.
    """
    if current in TERMINAL_ROLLOUT and status not in QUEUED:
        if status in TERMINAL_ROLLOUT:
            return current
        raise ConflictError(f"`status` {status!r} can't follow {current!r}; `queuing` runs the rollout again")
    return status


class Limits(NamedTuple):
    """How long an attempt may take and be silent, in seconds; `None` is without limit."""

    timeout: float | None
    silence: float | None
    """Without a sign of the attempt."""
    worker_silence: float | None
    """Without a sign of a worker that has sent heartbeats."""


class Signs(NamedTuple):
    """What the store has heard of an active attempt, in seconds since the epoch; `None` is never."""

    start: float
    attempt: float | None
    """Heartbeats and spans of the attempt."""
    worker: float | None
    """Heartbeats of its worker."""


def overdue(limits: Limits, signs: Signs, *, now: float, listening_since: float) -> AttemptStatus | None:
    """What an active attempt becomes for being late, or `None`.

    Args:
        limits: The rollout's and the store's.
        signs: What was heard.
        now: Seconds since the epoch.
        listening_since: Since when the store would have heard of the worker without a break. Silence before that is
            the store's own.
    """
    if limits.timeout is not None and now - signs.start > limits.timeout:
        return "timeout"
    heard = _latest((signs.start, signs.attempt, listening_since))
    if limits.silence is not None and now - heard > limits.silence:
        return "unresponsive"
    if signs.worker is not None and limits.worker_silence is not None:
        return "unresponsive" if now - max(heard, signs.worker) > limits.worker_silence else None
    return None


def worker_after_attempt(status: AttemptStatus, *, has_other: bool) -> WorkerStatus:
    """State of a worker whose attempt is in `status`; `has_other`: it has another active one."""
    if status in ACTIVE or has_other:
        return "busy"
    return "idle" if status in ("succeeded", "failed") else "unknown"


def _latest(times: Iterable[float | None]) -> float:
    return max(time for time in times if time is not None)
