"""Helpers on the nouns of a store, at the import path of Agent-Lightning 0.3. The rules are those of `transitions`.

For stores of a user's own; the homes of this package do not need them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentlightning.types import Attempt, AttemptedRollout, AttemptStatus, RolloutConfig, RolloutStatus

from . import transitions
from .transitions import ACTIVE, Limits, Signs


async def rollout_status_from_attempt(attempt: Attempt, config: RolloutConfig) -> RolloutStatus:
    """What a rollout becomes by the state of its latest attempt: that state, or `requeuing` or `failed` where it ended
    without success, as `retry_condition` and `max_attempts` say."""
    return transitions.rollout_from_attempt(attempt.status, attempt.sequence_id, config)


async def scan_unhealthy_rollouts(rollouts: Iterable[AttemptedRollout]) -> dict[tuple[str, str], AttemptStatus]:
    """Attempts that are overdue now, by (rollout_id, attempt_id), with what they become (`timeout`, `unresponsive`).

    Attempts that have ended are passed over. Nothing is changed.
    """
    now = time.time()
    found: dict[tuple[str, str], AttemptStatus] = {}
    for rollout in rollouts:
        attempt, config = rollout.attempt, rollout.config
        limits = Limits(config.timeout_seconds, config.unresponsive_seconds, worker_silence=None)
        signs = Signs(attempt.start_time, attempt.last_heartbeat_time, worker=None)
        # As if it had listened since the attempt began.
        status = transitions.overdue(limits, signs, now=now, listening_since=attempt.start_time)
        if status is not None and attempt.status in ACTIVE:
            found[rollout.rollout_id, attempt.attempt_id] = status
    return found
