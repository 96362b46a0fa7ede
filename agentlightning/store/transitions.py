"""The state machine of rollouts, attempts and workers, as data and pure functions.

`operations` calls these for every home, so that no home has rules of its own. Source: the project's notes on
Agent-Lightning 0.3, section 5, with these points made strict:

- The latest attempt owns its rollout until a newer one begins; what older attempts report changes only themselves.
- `succeeded`, `failed` and `timeout` are final for an attempt. `unresponsive` is a guess: the worker may turn out to be
  alive, and is believed as long as it owns a rollout that nobody else has taken up yet.
- A terminal rollout stays as it is, whatever attempts report. Only an explicit `queuing` or `requeuing` of
  `update_rollout`, or `start_attempt`, opens it again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agentlightning.types import (
    TERMINAL_ATTEMPT,
    TERMINAL_ROLLOUT,
    AttemptStatus,
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


def attempt_may_become(standing: Standing, status: AttemptStatus) -> bool:
    """Whether a report of `status` counts for the attempt."""
    if standing.attempt == status or standing.attempt not in TERMINAL_ATTEMPT:
        return True
    return standing.attempt == "unresponsive" and standing.is_latest and standing.rollout in QUEUED


def attempt_after_span(standing: Standing) -> AttemptStatus:
    """A span shows that the attempt is running, unless it has ended."""
    return "running" if attempt_may_become(standing, "running") else standing.attempt


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
    if status in ("preparing", "running", "succeeded"):
        return status
    return "requeuing" if status in config.retry_condition and sequence_id < config.max_attempts else "failed"


def rollout_by_request(current: RolloutStatus, status: RolloutStatus) -> RolloutStatus:
    """State of a rollout after an explicit `update_rollout(status=...)`.

    The first terminal state wins: cancelling what has just succeeded leaves it succeeded.

    Raises:
        ValueError: `status` would reopen a terminal rollout without queueing it.
    """
    if current in TERMINAL_ROLLOUT and status not in QUEUED:
        if status in TERMINAL_ROLLOUT:
            return current
        raise ValueError(f"`status` {status!r} can't follow {current!r}; `queuing` runs the rollout again")
    return status


def overdue(
    config: RolloutConfig, *, start_time: float, last_heartbeat_time: float | None, now: float
) -> AttemptStatus | None:
    """What an active attempt becomes for being late, or `None`. All times in seconds since the epoch."""
    if config.timeout_seconds is not None and now - start_time > config.timeout_seconds:
        return "timeout"
    last_sign = start_time if last_heartbeat_time is None else last_heartbeat_time
    if config.unresponsive_seconds is not None and now - last_sign > config.unresponsive_seconds:
        return "unresponsive"
    return None


def worker_after_attempt(status: AttemptStatus, *, has_other: bool) -> WorkerStatus:
    """State of a worker whose attempt is in `status`; `has_other`: it has another active one."""
    if status in ACTIVE or has_other:
        return "busy"
    return "idle" if status in ("succeeded", "failed") else "unknown"
