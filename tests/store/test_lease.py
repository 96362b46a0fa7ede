"""An attempt is a lease, on every home: who lost it changes nothing, and is told so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.types import AttemptedRollout, LeaseLostError, NotFoundError

from .helpers import enqueue, retrying, span_of, status_of, taken

Lose = Callable[[LightningStore, AttemptedRollout], Awaitable[Any]]


async def time_out(store: LightningStore, rollout: AttemptedRollout) -> None:
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="timeout")


async def fall_silent(store: LightningStore, rollout: AttemptedRollout) -> None:
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="unresponsive")


async def fail_and_be_requeued(store: LightningStore, rollout: AttemptedRollout) -> None:
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="failed")


async def cancel(store: LightningStore, rollout: AttemptedRollout) -> None:
    await store.update_rollout(rollout.rollout_id, status="cancelled")


async def queue_again(store: LightningStore, rollout: AttemptedRollout) -> None:
    await store.update_rollout(rollout.rollout_id, status="queuing")


async def begin_another(store: LightningStore, rollout: AttemptedRollout) -> None:
    await store.start_attempt(rollout.rollout_id)


LOST = [
    (time_out, "it ran longer than it may"),
    (fall_silent, "its worker was taken for gone"),
    (fail_and_be_requeued, r"its rollout is in the queue again \(`requeuing`\)"),
    (cancel, "its rollout is cancelled"),
    (queue_again, r"its rollout is in the queue again \(`queuing`\)"),
    (begin_another, "its worker was taken for gone"),
]


async def state(store: LightningStore, rollout_id: str) -> Any:
    """All that a stale worker might change."""
    return (
        await store.get_rollout_by_id(rollout_id),
        list(await store.query_attempts(rollout_id)),
        list(await store.query_spans(rollout_id)),
        list(await store.query_workers()),
        {key: value for key, value in (await store.statistics()).items() if key not in ("uptime", "time")},
    )


@pytest.mark.parametrize(("lose", "why"), LOST, ids=[lose.__name__ for lose, _ in LOST])
async def test_nothing_is_written_under_a_lost_lease(store: LightningStore, lose: Lose, why: str):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    rollout = await taken(store, "w")
    await store.add_span(span_of(rollout))
    await lose(store, rollout)
    ids = (rollout_id, rollout.attempt.attempt_id)
    before = await state(store, rollout_id)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.update_attempt(*ids, status="running"),
        lambda: store.update_attempt(*ids, status="succeeded", metadata={"late": True}),
        lambda: store.update_attempt(*ids, last_heartbeat_time=1e12),
        lambda: store.update_attempt(*ids, metadata={"late": True}),
        lambda: store.update_attempt(*ids, worker_id="other"),
        lambda: store.update_attempt(*ids),
        lambda: store.add_span(span_of(rollout)),
        lambda: store.get_next_span_sequence_id(*ids),
    ]
    for call in calls:
        with pytest.raises(
            LeaseLostError, match=f"attempt '{ids[1]}' of rollout '{ids[0]}' .*{why}.*stop the agent"
        ) as lost:
            await call()
        assert lost.value.attempts == [ids]
    assert await state(store, rollout_id) == before


@pytest.mark.parametrize("lose", [lose for lose, _ in LOST], ids=[lose.__name__ for lose, _ in LOST])
async def test_a_report_that_comes_twice_is_answered(store: LightningStore, lose: Lose):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    rollout = await taken(store, "w")
    await lose(store, rollout)
    before = await state(store, rollout_id)
    attempt = before[1][0]
    again = await store.update_attempt(rollout_id, attempt.attempt_id, status=attempt.status, metadata={"again": 1})
    assert again == attempt
    assert await state(store, rollout_id) == before


async def test_older_attempt_of_a_rollout_that_runs_again(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    old = await taken(store)
    await store.update_attempt(rollout_id, "latest", status="failed")
    new = await taken(store)
    with pytest.raises(LeaseLostError, match="a newer attempt has taken its place"):
        await store.add_span(span_of(old))
    await store.update_attempt(rollout_id, new.attempt.attempt_id, status="succeeded")
    with pytest.raises(LeaseLostError, match="a newer attempt has taken its place"):
        await store.update_attempt(rollout_id, old.attempt.attempt_id, status="succeeded")
    assert await status_of(store, rollout_id) == "succeeded"


async def test_one_lost_lease_refuses_the_whole_call_and_all_are_named(store: LightningStore):
    good, *bad = [await store.start_rollout(number) for number in range(3)]
    for rollout in bad:
        await store.update_rollout(rollout.rollout_id, status="cancelled")
    lost = [(rollout.rollout_id, rollout.attempt.attempt_id) for rollout in bad]
    with pytest.raises(LeaseLostError, match=r"\(and 1 more of this call\)") as error:
        await store.add_many_spans([span_of(good), *map(span_of, bad), span_of(bad[0])])
    assert error.value.attempts == lost
    with pytest.raises(LeaseLostError) as error:
        await store.get_many_span_sequence_ids([(good.rollout_id, good.attempt.attempt_id), *lost])
    assert error.value.attempts == lost
    assert (await store.query_spans(good.rollout_id)).total == 0
    assert (await store.get_next_span_sequence_id(good.rollout_id, good.attempt.attempt_id)) == 1


@pytest.mark.parametrize("status", ["succeeded", "failed"])
async def test_attempt_that_ended_by_its_own_report_may_send_the_rest_of_its_spans(store: LightningStore, status: Any):
    rollout = await store.start_rollout("task")
    await store.update_attempt(rollout.rollout_id, "latest", status=status)
    stored = await store.add_span(span_of(rollout))
    assert stored is not None
    assert await store.get_next_span_sequence_id(rollout.rollout_id, rollout.attempt.attempt_id) == 2
    assert await status_of(store, rollout.rollout_id) == status


async def test_update_without_a_change_is_a_heartbeat_by_the_clock_of_the_store(store: LightningStore):
    rollout = await store.start_rollout("task", config=retrying(unresponsive_seconds=5))
    attempt = await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id)
    assert attempt.status == "preparing"
    assert attempt.last_heartbeat_time is not None
    assert attempt.last_heartbeat_time >= rollout.attempt.start_time
    ended = await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    assert await store.update_attempt(rollout.rollout_id, "latest") == ended


# -- the last spans together with the final status --------------------------------------------------------------------


async def test_an_attempt_ends_with_its_last_spans(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1)
    rollout = await taken(store, "w")
    attempt_id = rollout.attempt.attempt_id
    first = span_of(rollout, "first")
    await store.add_span(first)
    spans = [first, span_of(rollout, "second"), span_of(rollout, "third")]
    for _ in range(2):  # as when the answer got lost
        ended = await store.end_attempt(rollout_id, attempt_id, "succeeded", spans, {"by": "hand"})
        assert (ended.status, ended.metadata) == ("succeeded", {"by": "hand"})
        found = await store.query_spans(rollout_id)
        assert [(span.name, span.sequence_id) for span in found] == [("first", 1), ("second", 2), ("third", 3)]
    assert await store.get_next_span_sequence_id(rollout_id, attempt_id) == 4
    assert await status_of(store, rollout_id) == "succeeded"
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("idle", None)


async def test_a_failed_attempt_without_spans_is_tried_again_and_its_end_may_be_told_twice(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    rollout = await taken(store)
    for _ in range(2):
        ended = await store.end_attempt(rollout_id, rollout.attempt.attempt_id, "failed")
        assert ended.status == "failed"
        assert await status_of(store, rollout_id) == "requeuing"
    assert (await taken(store)).attempt.sequence_id == 2


async def test_the_end_of_an_attempt_that_lost_its_lease_changes_nothing(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    old = await taken(store)
    await store.update_attempt(rollout_id, "latest", status="failed")
    new = await taken(store)
    with pytest.raises(LeaseLostError, match="a newer attempt has taken its place"):
        await store.end_attempt(rollout_id, old.attempt.attempt_id, "succeeded", [span_of(old)])
    with pytest.raises(NotFoundError):
        await store.end_attempt(rollout_id, "at-0", "succeeded")
    assert (await store.query_spans(rollout_id)).total == 0
    latest = await store.get_latest_attempt(rollout_id)
    assert latest is not None
    assert (latest.attempt_id, latest.status) == (new.attempt.attempt_id, "preparing")


async def test_an_end_with_spans_that_cannot_be_stored_changes_nothing(store: LightningStore):
    rollout, other = await store.start_rollout(1), await store.start_rollout(2)
    ids = (rollout.rollout_id, rollout.attempt.attempt_id)
    bad = span_of(rollout)
    bad.sequence_id = -1
    for spans in ([span_of(rollout), bad], [span_of(rollout), span_of(other)]):
        with pytest.raises(ValueError, match="span"):
            await store.end_attempt(*ids, "succeeded", spans)
    for each in (rollout, other):
        assert await status_of(store, each.rollout_id) == "preparing"
        assert (await store.query_spans(each.rollout_id)).total == 0


async def test_ways_of_a_users_own_to_add_spans_and_to_end_are_used():
    class Counting(InMemoryLightningStore):
        calls: ClassVar[list[str]] = []

        async def add_many_spans(self, spans: Any) -> Any:
            self.calls.append("add_many_spans")
            return await super().add_many_spans(spans)

        async def update_attempt(self, *args: Any, **kwargs: Any) -> Any:
            self.calls.append("update_attempt")
            return await super().update_attempt(*args, **kwargs)

    store = Counting()
    rollout = await store.start_rollout(1)
    await store.end_attempt(rollout.rollout_id, rollout.attempt.attempt_id, "succeeded", [span_of(rollout)])
    assert store.calls == ["add_many_spans", "update_attempt"]
    await store.close()
