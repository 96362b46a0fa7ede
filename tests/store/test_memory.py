"""Retention of the memory home."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

from .helpers import enqueue, span_of, taken


async def finish(store: InMemoryLightningStore, count: int) -> list[str]:
    """Ids of rollouts that went all the way, with a span each."""
    ids = await enqueue(store, count)
    for _ in range(count):
        rollout = await taken(store, "w")
        await store.add_span(span_of(rollout))
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    return ids


async def test_oldest_ended_rollouts_are_dropped_with_all_that_is_theirs():
    store = InMemoryLightningStore(retention=3)
    waiting = await store.enqueue_rollout("stays in the queue")
    running = await store.start_rollout("stays running")
    await store.update_rollout(waiting.rollout_id, status="cancelled")
    await store.update_rollout(waiting.rollout_id, status="queuing")
    await taken(store)
    ids = await finish(store, 5)
    kept = [rollout.rollout_id for rollout in await store.query_rollouts()]
    assert kept == [waiting.rollout_id, running.rollout_id, *ids[2:]]
    statistics = await store.statistics()
    assert (statistics["total_attempts"], statistics["total_spans"]) == (5, 3)
    assert await store.get_rollout_by_id(ids[0]) is None
    assert (await store.query_attempts(ids[0])).total == 0
    with pytest.raises(ValueError, match="it never was, or retention dropped it"):
        await store.query_many_spans([(ids[0], "at-x")])


async def test_rollouts_that_are_waited_for_are_kept_until_the_wait_is_over():
    store = InMemoryLightningStore(retention=2)
    awaited = await enqueue(store, 6)
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=awaited))
    await asyncio.sleep(0)
    for _ in awaited[:-1]:
        rollout = await taken(store)
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    last = await taken(store)
    others = await finish(store, 20)
    await store.update_attempt(last.rollout_id, "latest", status="succeeded")
    finished = await waiting
    assert [rollout.rollout_id for rollout in finished] == awaited
    pairs = [(each.rollout_id, each.attempt.attempt_id) for each in finished if isinstance(each, AttemptedRollout)]
    assert list(await store.query_many_spans(pairs)) == awaited
    assert await store.get_rollout_by_id(others[0]) is None
    await finish(store, 2)
    assert (await store.query_rollouts(rollout_id_in=awaited)).total == 0


async def test_active_attempts_of_dropped_rollouts_are_forgotten():
    store = InMemoryLightningStore(retention=0)
    rollout = await store.start_rollout("task", worker_id="w")
    await store.update_rollout(rollout.rollout_id, status="cancelled")
    assert await store.expire_attempts(now=1e12) == []
    assert (await store.statistics())["total_attempts"] == 0
    assert await store.dequeue_rollout("w") is None


async def test_memory_is_flat_beyond_the_retention():
    store = InMemoryLightningStore(retention=100)
    tracemalloc.start()
    used: list[int] = []
    for _ in range(2):
        for _ in range(15):
            await finish(store, 100)
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert used[1] - used[0] < 100_000, "1500 rollouts more take no more memory"


def test_negative_retention_is_refused():
    with pytest.raises(ValueError, match="`retention` is -1"):
        InMemoryLightningStore(retention=-1)
