"""The state machine's pure functions."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from agentlightning.store.transitions import (
    Limits,
    Signs,
    Standing,
    attempt_after_rollout,
    attempt_after_span,
    attempt_may_become,
    lease_lost,
    overdue,
    rollout_after_attempt,
    rollout_by_request,
    why_lost,
    worker_after_attempt,
)
from agentlightning.types import (
    TERMINAL_ATTEMPT,
    TERMINAL_ROLLOUT,
    AttemptStatus,
    ConflictError,
    RolloutConfig,
    RolloutStatus,
)

ATTEMPT: tuple[Any, ...] = get_args(AttemptStatus)
ROLLOUT: tuple[Any, ...] = get_args(RolloutStatus)
RETRY_ALL = RolloutConfig(retry_condition=["failed", "timeout", "unresponsive"], max_attempts=3)


def test_final_states_of_an_attempt_are_final():
    for status in ATTEMPT:
        for to in ATTEMPT:
            assert attempt_may_become(status, to) == (status not in TERMINAL_ATTEMPT or to == status)
        assert attempt_after_span(status) == (status if status in TERMINAL_ATTEMPT else "running")


def test_lease_is_held_by_the_latest_attempt_of_a_rollout_that_is_neither_queued_nor_cancelled():
    held = {
        (attempt, rollout)
        for attempt in ATTEMPT
        for rollout in ROLLOUT
        if not lease_lost(Standing(attempt, rollout, is_latest=True))
    }
    assert held == {
        (attempt, rollout)
        for attempt in ("preparing", "running", "succeeded", "failed")
        for rollout in ("preparing", "running", "succeeded", "failed")
    }
    assert all(lease_lost(Standing(attempt, rollout, is_latest=False)) for attempt in ATTEMPT for rollout in ROLLOUT)


def test_why_a_lease_is_lost_is_said():
    reasons = {why_lost(Standing(attempt, rollout, latest)) for attempt in ATTEMPT for rollout in ROLLOUT
               for latest in (True, False)}  # fmt: skip
    assert reasons == {
        None,
        "it ran longer than it may (`timeout`)",
        "its worker was taken for gone (`unresponsive`)",
        "a newer attempt has taken its place",
        "its rollout is cancelled",
        "its rollout is in the queue again (`queuing`)",
        "its rollout is in the queue again (`requeuing`)",
    }


def test_attempt_under_way_ends_when_its_rollout_is_ended_or_queued_by_hand():
    becomes = {status: attempt_after_rollout(status) for status in ROLLOUT}
    assert becomes == {
        "queuing": "failed",
        "requeuing": "failed",
        "preparing": None,
        "running": None,
        "succeeded": "succeeded",
        "failed": "failed",
        "cancelled": "failed",
    }


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
                with pytest.raises(ConflictError, match=f"{status!r} can't follow {current!r}"):
                    rollout_by_request(ended, status)
            else:
                assert rollout_by_request(ended, status) == (current if status in TERMINAL_ROLLOUT else status)
    assert rollout_by_request("running", "queuing") == "queuing"


def late(now: float, *, limits: Limits, heard: float | None = None, worker: float | None = None, since: float = 0):
    return overdue(limits, Signs(100, heard, worker), now=now, listening_since=since)


def test_limits_are_exclusive_and_a_heartbeat_renews_only_the_silence():
    limits = Limits(10, 4, None)
    assert late(104, limits=limits) is None
    assert late(104.5, limits=limits) == "unresponsive"
    assert late(110, limits=limits, heard=106) is None
    assert late(110.5, limits=limits, heard=110) == "timeout"
    assert late(1e12, limits=Limits(None, None, None)) is None


def test_silence_before_the_store_listened_is_its_own():
    limits = Limits(None, 4, 60)
    assert late(110, limits=limits, since=107) is None
    assert late(112, limits=limits, since=107) == "unresponsive"
    assert late(500, limits=Limits(10, None, None), since=499) == "timeout", "time goes on for the agent"
    assert late(200, limits=Limits(None, None, 60), worker=90, since=150) is None
    assert late(211, limits=Limits(None, None, 60), worker=90, since=150) == "unresponsive"


def test_worker_that_sent_heartbeats_and_then_none_has_lost_its_attempts():
    limits = Limits(None, None, 60)
    assert late(1e12, limits=limits) is None, "a worker that never sent any is not expected to"
    assert late(160, limits=limits, worker=50) is None, "it has asked for work since"
    assert late(160.5, limits=limits, worker=50) == "unresponsive"
    assert late(180, limits=limits, worker=120) is None
    assert late(180, limits=limits, worker=50, heard=130) is None, "what the attempt sends, its worker does"
    assert late(1e12, limits=Limits(None, None, None), worker=50) is None


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
