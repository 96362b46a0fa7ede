"""Rollouts and attempts on every home: creating, queueing, taking, ending, retrying."""

from __future__ import annotations

from typing import Any, cast

import pytest

from agentlightning.store import LightningStore
from agentlightning.types import (
    AttemptedRollout,
    ConflictError,
    EnqueueRolloutRequest,
    NotFoundError,
    RolloutConfig,
    StoreClosedError,
)

from .helpers import LLM_RESOURCES, enqueue, retrying, span_of, status_of, taken


async def test_enqueued_rollout_comes_back_as_given(store: LightningStore):
    config = RolloutConfig(timeout_seconds=60, max_attempts=3, retry_condition=["timeout"])
    queued = await store.enqueue_rollout({"q": [1, 2.5, None]}, mode="val", config=config, metadata={"seed": 3})
    found = await store.get_rollout_by_id(queued.rollout_id)
    assert found == queued
    assert not isinstance(found, AttemptedRollout)
    assert found.input == {"q": [1, 2.5, None]}
    assert (found.mode, found.config, found.metadata, found.status) == ("val", config, {"seed": 3}, "queuing")
    assert found.end_time is None


async def test_store_keeps_its_own_copy_of_the_input(store: LightningStore):
    task = {"answers": [1]}
    rollout = await store.start_rollout(task)
    task["answers"].append(2)
    rollout.input["answers"].append(3)
    found = await store.get_rollout_by_id(rollout.rollout_id)
    assert found is not None
    assert found.input == {"answers": [1]}


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("input", {"a": [1, object()]}, r"`input\.a\[1\]` is a object"),
        ("input", {1: "a"}, r"`input` has the key 1"),
        ("metadata", {"x": {1, 2}}, r"`metadata\.x` is a set"),
    ],
)
async def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    store: LightningStore, field: str, value: Any, where: str
):
    good = EnqueueRolloutRequest(input="good")
    bad = EnqueueRolloutRequest(**{"input": "bad", field: value})
    with pytest.raises(TypeError, match=where):
        await store.enqueue_many_rollouts([good, bad])
    assert (await store.query_rollouts()).total == 0


async def test_queue_is_first_in_first_out(store: LightningStore):
    ids = await enqueue(store, 5)
    first = await store.dequeue_many_rollouts(limit=2)
    rest = [await taken(store) for _ in range(3)]
    assert [rollout.rollout_id for rollout in [*first, *rest]] == ids
    assert await store.dequeue_rollout() is None


async def test_dequeue_begins_an_attempt(store: LightningStore):
    await enqueue(store, 1)
    rollout = await taken(store, "w-1")
    assert rollout.status == "preparing"
    assert (rollout.attempt.status, rollout.attempt.sequence_id, rollout.attempt.worker_id) == ("preparing", 1, "w-1")
    assert await store.get_latest_attempt(rollout.rollout_id) == rollout.attempt


async def test_dequeue_refuses_a_limit_below_one(store: LightningStore):
    with pytest.raises(ValueError, match="`limit` is 0"):
        await store.dequeue_many_rollouts(limit=0)


async def test_start_rollout_skips_the_queue(store: LightningStore):
    rollout = await store.start_rollout("task", worker_id="w")
    assert (rollout.status, rollout.attempt.sequence_id) == ("preparing", 1)
    assert await store.dequeue_rollout() is None
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("busy", rollout.attempt.attempt_id)


async def test_cancelled_rollouts_leave_the_queue(store: LightningStore):
    ids = await enqueue(store, 3)
    cancelled = await store.update_rollout(ids[0], status="cancelled")
    assert cancelled.end_time is not None
    assert (await taken(store)).rollout_id == ids[1]


async def test_unknown_resources_are_refused_and_nothing_is_queued(store: LightningStore):
    known = await store.add_resources(LLM_RESOURCES)
    with pytest.raises(NotFoundError, match=f"'nope' is not in the store; the latest are '{known.resources_id}'"):
        await store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input=1), EnqueueRolloutRequest(input=2, resources_id="nope")]
        )
    with pytest.raises(NotFoundError, match="'nope'"):
        await store.start_rollout(1, resources_id="nope")
    assert (await store.query_rollouts()).total == 0


async def test_no_resources_id_takes_the_latest(store: LightningStore):
    assert (await store.enqueue_rollout(1)).resources_id is None
    await store.add_resources(LLM_RESOURCES)
    latest = await store.add_resources(LLM_RESOURCES)
    assert (await store.enqueue_rollout(1)).resources_id == latest.resources_id
    assert (await store.start_rollout(1)).resources_id == latest.resources_id


async def test_success_of_the_attempt_is_success_of_the_rollout(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.add_span(span_of(rollout))
    assert await status_of(store, rollout.rollout_id) == "running"
    attempt = await store.update_attempt(rollout.rollout_id, "latest", status="succeeded", metadata={"n": 1})
    assert (attempt.status, attempt.metadata) == ("succeeded", {"n": 1})
    assert attempt.end_time is not None
    ended = await store.get_rollout_by_id(rollout.rollout_id)
    assert isinstance(ended, AttemptedRollout)
    assert (ended.status, ended.attempt) == ("succeeded", attempt)
    assert ended.end_time == attempt.end_time


@pytest.mark.parametrize("status", ["succeeded", "failed", "timeout", "unresponsive"])
async def test_every_terminal_attempt_has_an_end_time(store: LightningStore, status: Any):
    rollout = await store.start_rollout("task")
    assert (await store.update_attempt(rollout.rollout_id, "latest", status=status)).end_time is not None


@pytest.mark.parametrize("status", ["failed", "timeout", "unresponsive"])
async def test_retry_condition_requeues_until_attempts_are_used_up(store: LightningStore, status: Any):
    (rollout_id,) = await enqueue(store, 1, config=retrying(status, max_attempts=2))
    first = await taken(store)
    await store.update_attempt(rollout_id, first.attempt.attempt_id, status=status)
    assert await status_of(store, rollout_id) == "requeuing"
    second = await taken(store)
    assert (second.rollout_id, second.attempt.sequence_id) == (rollout_id, 2)
    await store.update_attempt(rollout_id, second.attempt.attempt_id, status=status)
    assert await status_of(store, rollout_id) == "failed"
    assert await store.dequeue_rollout() is None


async def test_failure_outside_the_retry_condition_is_final(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1, config=retrying("timeout", max_attempts=5))
    await taken(store)
    await store.update_attempt(rollout_id, "latest", status="failed")
    assert await status_of(store, rollout_id) == "failed"


@pytest.mark.parametrize("first", ["succeeded", "failed"])
async def test_first_result_of_an_attempt_counts(store: LightningStore, first: Any):
    rollout = await store.start_rollout("task")
    ended = await store.update_attempt(rollout.rollout_id, "latest", status=first)
    other = "failed" if first == "succeeded" else "succeeded"
    assert await store.update_attempt(rollout.rollout_id, "latest", status=other) == ended
    assert await status_of(store, rollout.rollout_id) == first


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("cancelled", "failed"),
        ("queuing", "failed"),
        ("requeuing", "failed"),
    ],
)
async def test_attempt_under_way_ends_with_its_rollout(store: LightningStore, status: Any, becomes: str):
    rollout = await store.start_rollout("task", worker_id="w")
    updated = await store.update_rollout(rollout.rollout_id, status=status)
    assert isinstance(updated, AttemptedRollout)
    assert (updated.status, updated.attempt.status) == (status, becomes)
    assert updated.attempt.end_time is not None
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("idle", None)


async def test_queued_again_explicitly_it_runs_again(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    for _ in range(2):
        requeued = await store.update_rollout(rollout.rollout_id, status="queuing")
        assert (requeued.status, requeued.end_time) == ("queuing", None)
    again = await taken(store)
    assert (again.rollout_id, again.attempt.sequence_id) == (rollout.rollout_id, 2)
    assert await store.dequeue_rollout() is None


async def test_first_terminal_state_of_a_rollout_wins(store: LightningStore):
    rollout = await store.start_rollout("task")
    ended = await store.update_rollout(rollout.rollout_id, status="succeeded")
    assert await store.update_rollout(rollout.rollout_id, status="cancelled") == ended
    with pytest.raises(ConflictError, match=r"'running' can't follow 'succeeded'; `queuing` runs"):
        await store.update_rollout(rollout.rollout_id, status="running", metadata={"not": "written"})
    assert await store.get_rollout_by_id(rollout.rollout_id) == ended


async def test_update_rollout_changes_what_is_given(store: LightningStore):
    resources = await store.add_resources(LLM_RESOURCES)
    rollout = await store.start_rollout("task", mode="train", metadata={"a": 1})
    config = RolloutConfig(max_attempts=4)
    updated = await store.update_rollout(
        rollout.rollout_id, input=[1], mode=None, resources_id=None, config=config, metadata=None
    )
    assert (updated.input, updated.mode, updated.resources_id, updated.config) == ([1], None, None, config)
    assert updated.metadata is None
    assert updated.status == "preparing"
    again = await store.update_rollout(rollout.rollout_id, resources_id=resources.resources_id)
    assert (again.input, again.resources_id) == ([1], resources.resources_id)
    with pytest.raises(NotFoundError, match="'nope'"):
        await store.update_rollout(rollout.rollout_id, resources_id="nope")


async def test_start_attempt_disregards_max_attempts(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1)
    first = await store.start_attempt(rollout_id, worker_id="w")
    assert await store.dequeue_rollout() is None
    await store.update_attempt(rollout_id, "latest", status="failed")
    second = await store.start_attempt(rollout_id)
    assert [first.attempt.sequence_id, second.attempt.sequence_id] == [1, 2]
    assert (second.status, second.end_time) == ("preparing", None)


async def test_start_attempt_ends_the_one_that_is_under_way(store: LightningStore):
    first = await store.start_rollout("task", worker_id="a")
    second = await store.start_attempt(first.rollout_id, worker_id="b")
    statuses = [attempt.status for attempt in await store.query_attempts(first.rollout_id)]
    assert statuses == ["unresponsive", "preparing"]
    assert await status_of(store, first.rollout_id) == "preparing"
    assert await store.dequeue_rollout() is None
    workers = {worker.worker_id: worker for worker in await store.query_workers()}
    assert (workers["a"].status, workers["b"].current_attempt_id) == ("unknown", second.attempt.attempt_id)


async def test_unknown_ids_and_states_are_named(store: LightningStore):
    rollout = await store.start_rollout("task")
    queued = await store.enqueue_rollout("task")
    nobody: Any = "nobody"
    with pytest.raises(NotFoundError, match="`rollout_id` 'ro-x' is not in the store"):
        await store.start_attempt("ro-x")
    with pytest.raises(NotFoundError, match="`rollout_id` 'ro-x'"):
        await store.update_rollout("ro-x", status="cancelled")
    with pytest.raises(
        NotFoundError, match=f"'at-x' is no attempt of .*latest attempt is '{rollout.attempt.attempt_id}'"
    ):
        await store.update_attempt(rollout.rollout_id, "at-x", status="failed")
    with pytest.raises(NotFoundError, match="it has no attempt yet"):
        await store.update_attempt(queued.rollout_id, "latest", status="failed")
    with pytest.raises(ValueError, match="`status` is 'nobody'; give one of preparing"):
        await store.update_attempt(rollout.rollout_id, "latest", status=nobody)
    with pytest.raises(ValueError, match="`status` is 'nobody'; give one of queuing"):
        await store.update_rollout(rollout.rollout_id, status=nobody)
    with pytest.raises(ValueError, match="`mode` is 'nobody'"):
        await store.update_rollout(rollout.rollout_id, mode=nobody)
    assert await store.get_rollout_by_id("ro-x") is None
    assert await store.get_latest_attempt("ro-x") is None
    assert await store.get_latest_attempt(queued.rollout_id) is None


async def test_names_and_times_of_the_wrong_type_are_refused(store: LightningStore):
    rollout = await store.start_rollout("task")
    ids, wrong = (rollout.rollout_id, rollout.attempt.attempt_id), cast(Any, 3)
    calls: list[Any] = [
        lambda: store.start_rollout("task", worker_id=wrong),
        lambda: store.dequeue_rollout(wrong),
        lambda: store.start_attempt(ids[0], worker_id=wrong),
        lambda: store.update_attempt(*ids, worker_id=wrong),
        lambda: store.update_attempt(*ids, last_heartbeat_time="now"),  # type: ignore[arg-type]
        lambda: store.update_worker(wrong),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)):
            await call()
    assert (await store.statistics())["total_workers"] == 0
    assert await store.get_latest_attempt(ids[0]) == rollout.attempt


async def test_overdue_attempts_time_out(store: LightningStore):
    config = retrying("timeout", timeout_seconds=10, unresponsive_seconds=5)
    (rollout_id, _) = await enqueue(store, 2, config=config)
    late, quiet = await taken(store, "w-1"), await taken(store, "w-2")
    unlimited = await store.start_rollout("task")
    start = max(late.attempt.start_time, quiet.attempt.start_time)
    await store.update_attempt(rollout_id, "latest", last_heartbeat_time=start + 9)
    assert await store.expire_attempts(now=start + 3) == []
    (silent,) = await store.expire_attempts(now=start + 9)
    assert (silent.attempt_id, silent.status, silent.end_time) == (quiet.attempt.attempt_id, "unresponsive", start + 9)
    (timed_out,) = await store.expire_attempts(now=start + 11)
    assert (timed_out.attempt_id, timed_out.status) == (late.attempt.attempt_id, "timeout")
    assert await status_of(store, rollout_id) == "requeuing"
    assert await status_of(store, quiet.rollout_id) == "failed"
    assert await status_of(store, unlimited.rollout_id) == "preparing"
    assert await store.expire_attempts(now=start + 1e6) == []


async def test_closed_store_says_so(store: LightningStore):
    await store.close()
    await store.close()
    with pytest.raises(StoreClosedError, match="the store is closed"):
        await store.enqueue_rollout("task")
