"""The state machine's pure functions."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from agentlightning.store.transitions import (
    Standing,
    attempt_after_span,
    attempt_may_become,
    overdue,
    rollout_after_attempt,
    rollout_by_request,
    worker_after_attempt,
)
from agentlightning.types import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT, AttemptStatus, RolloutConfig, RolloutStatus

ATTEMPT: tuple[Any, ...] = get_args(AttemptStatus)
ROLLOUT: tuple[Any, ...] = get_args(RolloutStatus)
RETRY_ALL = RolloutConfig(retry_condition=["failed", "timeout", "unresponsive"], max_attempts=3)


def test_final_states_of_an_attempt_are_final():
    for status in ("failed", "succeeded", "timeout"):
        for to in ATTEMPT:
            for rollout in ROLLOUT:
                assert attempt_may_become(Standing(status, rollout, True), to) == (to == status)


def test_unresponsive_attempt_comes_back_only_while_its_rollout_waits_for_a_worker():
    back = {
        (rollout, latest)
        for rollout in ROLLOUT
        for latest in (True, False)
        if attempt_after_span(Standing("unresponsive", rollout, latest)) == "running"
    }
    assert back == {("queuing", True), ("requeuing", True)}


def test_terminal_rollouts_and_old_attempts_move_nothing():
    for status in ATTEMPT:
        for rollout in ROLLOUT:
            assert rollout_after_attempt(Standing("running", rollout, False), status, 1, RETRY_ALL) == rollout
        for ended in TERMINAL_ROLLOUT:
            standing = Standing("running", ended, True)  # type: ignore[arg-type]
            assert rollout_after_attempt(standing, status, 1, RETRY_ALL) == ended


@pytest.mark.parametrize("status", ["preparing", "running", "succeeded"])
def test_rollout_follows_its_latest_attempt(status: Any):
    for rollout in ("queuing", "requeuing", "preparing", "running"):
        assert rollout_after_attempt(Standing("preparing", rollout, True), status, 1, RETRY_ALL) == status


@pytest.mark.parametrize("status", ["failed", "timeout", "unresponsive"])
def test_retry_depends_on_condition_and_number(status: Any):
    running = Standing("running", "running", True)
    once = RolloutConfig(retry_condition=[status], max_attempts=2)
    assert rollout_after_attempt(running, status, 1, once) == "requeuing"
    assert rollout_after_attempt(running, status, 2, once) == "failed"
    assert rollout_after_attempt(running, status, 1, RolloutConfig(max_attempts=2)) == "failed"


def test_ended_attempt_that_is_heard_of_again_moves_nothing():
    for status in TERMINAL_ATTEMPT:
        standing = Standing(status, "requeuing", True)  # type: ignore[arg-type]
        assert rollout_after_attempt(standing, status, 1, RETRY_ALL) == "requeuing"  # type: ignore[arg-type]


def test_request_reopens_a_terminal_rollout_only_into_the_queue():
    for current in TERMINAL_ROLLOUT:
        for status in ROLLOUT:
            ended: Any = current
            if status in ("preparing", "running"):
                with pytest.raises(ValueError, match=f"{status!r} can't follow {current!r}"):
                    rollout_by_request(ended, status)
            else:
                assert rollout_by_request(ended, status) == (current if status in TERMINAL_ROLLOUT else status)
    assert rollout_by_request("running", "queuing") == "queuing"


def test_limits_are_exclusive_and_a_heartbeat_renews_only_the_silence():
    config = RolloutConfig(timeout_seconds=10, unresponsive_seconds=4)

    def at(now: float, heartbeat: float | None) -> str | None:
        return overdue(config, start_time=100, last_heartbeat_time=heartbeat, now=now)

    assert at(104, None) is None
    assert at(104.5, None) == "unresponsive"
    assert at(110, 106) is None
    assert at(110.5, 110) == "timeout"
    assert overdue(RolloutConfig(), start_time=0, last_heartbeat_time=None, now=1e12) is None


def test_worker_states():
    states = {status: worker_after_attempt(status, has_other=False) for status in ATTEMPT}
    assert states == {
        "preparing": "busy",
        "running": "busy",
        "failed": "idle",
        "succeeded": "idle",
        "timeout": "unknown",
        "unresponsive": "unknown",
    }
    assert {worker_after_attempt(status, has_other=True) for status in ATTEMPT} == {"busy"}
