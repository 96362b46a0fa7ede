"""Waiting for work and for ends: from any thread and loop, without polling, without losing a wake-up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from agentlightning.store import LightningStore, SqlLightningStore
from agentlightning.types import AttemptedRollout

from .helpers import Hold, enqueue, retrying, span_of, status_of, taken

FOREVER = 60.0


def in_threads(count: int, work: Callable[[int], Awaitable[None]]) -> list[threading.Thread]:
    """Start `count` threads, each with a loop of its own."""

    async def run(index: int) -> None:
        await work(index)

    threads = [threading.Thread(target=lambda i=i: asyncio.run(run(i))) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads


async def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        await asyncio.to_thread(thread.join)


async def test_dequeue_waits_for_work(store: LightningStore):
    waiting = asyncio.create_task(store.dequeue_rollout("w", timeout=FOREVER))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    (rollout_id,) = await enqueue(store, 1)
    rollout = await waiting
    assert rollout is not None
    assert rollout.rollout_id == rollout_id


async def test_dequeue_gives_up_after_its_timeout(store: LightningStore):
    assert await store.dequeue_rollout(timeout=0.01) is None
    assert list(await store.dequeue_many_rollouts(limit=3, timeout=0.01)) == []


async def test_requeueing_wakes_a_waiting_worker(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    await taken(store)
    waiting = asyncio.create_task(store.dequeue_rollout(timeout=FOREVER))
    await asyncio.sleep(0.01)
    await store.update_attempt(rollout_id, "latest", status="failed")
    again = await waiting
    assert again is not None
    assert again.attempt.sequence_id == 2


async def test_cancelled_waiter_hands_its_wake_up_on(store: LightningStore):
    first, second = (asyncio.create_task(store.dequeue_rollout(timeout=FOREVER)) for _ in range(2))
    await asyncio.sleep(0.05)
    enqueueing = asyncio.create_task(enqueue(store, 1))
    # The first waiter may be cancelled before, while or after it is woken; the rollout must reach somebody.
    await asyncio.sleep(0)
    first.cancel()
    (rollout_id,) = await enqueueing
    results = await asyncio.gather(first, return_exceptions=True)
    if isinstance(results[0], AttemptedRollout):
        assert results[0].rollout_id == rollout_id
        second.cancel()
    else:
        rollout = await second
        assert rollout is not None
        assert rollout.rollout_id == rollout_id


async def test_waiters_of_a_loop_that_is_gone_are_passed_over(local_store: LightningStore):
    # Not over HTTP: a connection that nobody closes looks alive to the server, so that lease has to time out.
    async def abandon() -> None:
        task = asyncio.ensure_future(local_store.dequeue_rollout(timeout=FOREVER))
        await asyncio.sleep(0.02)
        abandoned.append(task)  # kept alive, in a loop that is closed without cancelling it

    def run_and_leave() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(abandon())
        loop.close()

    abandoned: list[asyncio.Future[AttemptedRollout | None]] = []
    await asyncio.to_thread(run_and_leave)
    waiting = asyncio.create_task(local_store.dequeue_rollout(timeout=FOREVER))
    await asyncio.sleep(0.01)
    await enqueue(local_store, 1)
    assert await waiting is not None
    abandoned[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would warn of what we meant


async def test_every_rollout_is_taken_once_by_workers_of_many_loops(store: LightningStore):
    count, seen, lock = 120, list[str](), threading.Lock()

    async def work(index: int) -> None:
        while (rollout := await store.dequeue_rollout(f"w-{index}", timeout=FOREVER)) and rollout.input != "stop":
            await store.add_many_spans([span_of(rollout), span_of(rollout)])
            await store.add_span(span_of(rollout))
            await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
            with lock:
                seen.append(rollout.rollout_id)

    threads = in_threads(4, work)
    ids = [rollout_id for _ in range(12) for rollout_id in await enqueue(store, count // 12)]
    finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=FOREVER)
    for _ in threads:
        await store.enqueue_rollout("stop")
    await joined(threads)
    assert sorted(seen) == sorted(ids)
    assert [rollout.rollout_id for rollout in finished] == ids
    assert {rollout.status for rollout in finished} == {"succeeded"}
    spans = await store.query_many_spans(
        [
            (rollout.rollout_id, rollout.attempt.attempt_id)
            for rollout in finished
            if isinstance(rollout, AttemptedRollout)
        ]
    )
    assert all([span.sequence_id for span in spans[rollout_id]] == [1, 2, 3] for rollout_id in ids)


async def test_numbers_stay_unique_when_many_loops_write_one_rollout(store: LightningStore):
    rollout = await store.start_rollout("task")

    async def write(index: int) -> None:
        await asyncio.gather(*(store.add_span(span_of(rollout)) for _ in range(25)))

    await joined(in_threads(4, write))
    page = await store.query_spans(rollout.rollout_id)
    assert [span.sequence_id for span in page] == list(range(1, 101))


async def test_wait_ends_when_all_have_ended(store: LightningStore):
    ids = await enqueue(store, 3)
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[*ids, "ro-x", ids[0]], timeout=FOREVER))
    for rollout_id in reversed(ids):
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await store.update_rollout(rollout_id, status="cancelled")
    assert [rollout.rollout_id for rollout in await waiting] == ids


async def test_wait_returns_what_ended_in_time(store: LightningStore):
    ids = await enqueue(store, 2)
    await store.update_rollout(ids[1], status="cancelled")
    for timeout in (0, 0.01):
        finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=timeout)
        assert [rollout.rollout_id for rollout in finished] == [ids[1]]
    assert await store.wait_for_rollouts(rollout_ids=[]) == []
    assert await store.wait_for_rollouts(rollout_ids=["ro-x"]) == []


async def test_wait_goes_on_while_a_rollout_is_retried(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1, config=retrying("failed"))
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[rollout_id]))
    for status in ("requeuing", "failed"):
        await taken(store)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await store.update_attempt(rollout_id, "latest", status="failed")
        assert await status_of(store, rollout_id) == status
    (finished,) = await waiting
    assert isinstance(finished, AttemptedRollout)
    assert finished.attempt.sequence_id == 2


async def test_closing_wakes_those_who_wait(store: LightningStore):
    (rollout_id,) = await enqueue(store, 1)
    await taken(store)
    waits = [
        asyncio.create_task(store.dequeue_rollout(timeout=FOREVER)),
        asyncio.create_task(store.wait_for_rollouts(rollout_ids=[rollout_id])),
    ]
    await asyncio.sleep(0.05)
    await store.close()
    for wait in waits:
        with pytest.raises(RuntimeError, match="closed"):
            await wait


async def test_rollout_taken_for_a_caller_who_has_gone_is_given_back(sqlite: SqlLightningStore):
    (rollout_id,) = await enqueue(sqlite, 1)
    first, second = Hold(), Hold()
    holding = [asyncio.create_task(sqlite._run(first))]  # pyright: ignore[reportPrivateUsage]
    await asyncio.to_thread(first.started.wait)
    # These two come into one group: the second holds up the commit until the caller of the first is gone.
    dequeueing = asyncio.create_task(sqlite.dequeue_rollout("w"))
    holding.append(asyncio.create_task(sqlite._run(second)))  # pyright: ignore[reportPrivateUsage]
    await asyncio.sleep(0)
    first.release.set()
    await asyncio.to_thread(second.started.wait)
    dequeueing.cancel()
    second.release.set()
    await asyncio.gather(*holding)
    with pytest.raises(asyncio.CancelledError):
        await dequeueing
    again = await sqlite.dequeue_rollout(timeout=FOREVER)
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (rollout_id, 1)
    assert (await sqlite.query_attempts(rollout_id)).total == 1


async def test_wake_up_that_comes_too_late_for_a_waiter_goes_to_the_next(sqlite: SqlLightningStore):
    hold = Hold()
    giving_up = asyncio.create_task(sqlite.dequeue_rollout("w1", timeout=0.2))
    await asyncio.sleep(0.05)
    patient = asyncio.create_task(sqlite.dequeue_rollout("w2", timeout=FOREVER))
    await asyncio.sleep(0.05)
    holding = asyncio.create_task(sqlite._run(hold))  # pyright: ignore[reportPrivateUsage]
    await asyncio.to_thread(hold.started.wait)
    # Its time ends: its last look waits for the writer, and the rollout comes right behind it, in the same group.
    await asyncio.sleep(0.5)
    enqueueing = asyncio.create_task(enqueue(sqlite, 1))
    await asyncio.sleep(0.1)
    hold.release.set()
    await asyncio.gather(holding, enqueueing)
    assert await giving_up is None
    assert await asyncio.wait_for(patient, FOREVER / 4) is not None
