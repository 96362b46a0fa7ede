"""`LightningStoreThreaded` over a store of a user's own, and over ours."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentlightning.store import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreCapabilities,
    LightningStoreThreaded,
)
from agentlightning.store.replies import request_key
from agentlightning.types import AttemptedRollout, Rollout, StoreClosedError

from .helpers import enqueue, taken


class Fragile(InMemoryLightningStore):
    """A user's store that notices if two threads, or two calls at once, use it."""

    def __init__(self, async_safe: bool) -> None:
        super().__init__()
        self.async_safe = async_safe
        self.threads: set[int] = set()
        self.under_way = 0
        self.most = 0
        self.keys: set[str | None] = set()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {"async_safe": self.async_safe}

    async def dequeue_many_rollouts(self, limit: int = 1, worker_id: str | None = None, timeout: float = 0.0) -> Any:
        self.threads.add(threading.get_ident())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.keys.add(request_key.get())
        await asyncio.sleep(0)
        found = await super().dequeue_many_rollouts(limit, worker_id, timeout)
        self.under_way -= 1
        return found

    async def dequeue_rollout(self, worker_id: str | None = None, timeout: float = 0.0) -> AttemptedRollout | None:
        found = await self.dequeue_many_rollouts(1, worker_id, timeout)
        return found[0] if found else None


@pytest.fixture(params=[True, False], ids=["async-safe", "one at a time"])
def fragile(request: pytest.FixtureRequest) -> Fragile:
    return Fragile(request.param)


async def test_one_thread_uses_the_store_whoever_calls(fragile: Fragile):
    store = LightningStoreThreaded(fragile)
    ids = await enqueue(store, 40)

    def work(name: int) -> list[str]:
        async def take() -> list[str]:
            found = await asyncio.gather(*(store.dequeue_rollout(f"w-{name}") for _ in range(10)))
            return [rollout.rollout_id for rollout in found if rollout is not None]

        return asyncio.run(take())

    with ThreadPoolExecutor(4) as pool:
        results = await asyncio.gather(*(asyncio.wrap_future(pool.submit(work, name)) for name in range(4)))
    assert sorted(each for result in results for each in result) == sorted(ids)
    assert len(fragile.threads) == 1
    assert threading.get_ident() not in fragile.threads
    assert fragile.most == (1 if not fragile.async_safe else fragile.most)
    await store.close()


async def test_waits_leave_room_for_others(fragile: Fragile):
    store = LightningStoreThreaded(fragile)
    async with asyncio.timeout(20):
        waiting = [
            asyncio.create_task(store.dequeue_rollout("w", timeout=20)),
            asyncio.create_task(store.dequeue_many_rollouts(1, "w", timeout=20)),
        ]
        await asyncio.sleep(0.02)
        ids = await enqueue(store, 2)
        first, second = await waiting[0], await waiting[1]
        assert isinstance(first, AttemptedRollout)
        assert sorted([first.rollout_id, second[0].rollout_id]) == sorted(ids)  # type: ignore[index]
        ending: asyncio.Task[list[Rollout]] = asyncio.create_task(
            store.wait_for_rollouts(rollout_ids=[*ids, "ro-unknown"])
        )
        await asyncio.sleep(0.02)
        for rollout_id in ids:
            await store.update_rollout(rollout_id, status="succeeded")
        assert [rollout.rollout_id for rollout in await ending] == ids
        assert await store.wait_for_rollouts(rollout_ids=ids, timeout=0) == await ending
    assert await store.dequeue_rollout("w", timeout=0.06) is None
    assert await store.dequeue_many_rollouts(1, "w", timeout=0.06) == []
    await store.close()


async def test_errors_and_results_come_through(fragile: Fragile):
    store = LightningStoreThreaded(fragile)
    with pytest.raises(ValueError, match="'ro-x'"):
        await store.start_attempt("ro-x")
    rollout = await store.start_rollout({"a": 1}, mode="val")
    assert await store.get_rollout_by_id(rollout.rollout_id) == rollout
    assert store.capabilities == {"thread_safe": True, "async_safe": True}
    with pytest.raises(NotImplementedError, match="`Fragile` takes no OTLP"):
        store.otlp_traces_endpoint()
    await store.close()
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.query_rollouts()


async def test_closing_ends_the_waits_of_a_store_that_would_not():
    class Deaf(Fragile):
        async def wait_for_rollouts(self, **_: Any) -> list[Rollout]:
            return await asyncio.Future()

    store = LightningStoreThreaded(Deaf(async_safe=True))
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[]))
    await asyncio.sleep(0.05)
    await store.close()
    async with asyncio.timeout(20):
        with pytest.raises(StoreClosedError):
            await waiting


async def test_request_keys_reach_the_store(fragile: Fragile):
    store = LightningStoreThreaded(fragile)
    token = request_key.set("k")
    await store.dequeue_rollout()
    request_key.reset(token)
    assert fragile.keys == {"k"}
    await store.close()


async def test_our_own_stores_are_called_directly():
    before = set(threading.enumerate())
    inner = InMemoryLightningStore()
    store: LightningStore = LightningStoreThreaded(inner)
    await enqueue(store, 1)
    assert await store.dequeue_rollout("w", timeout=0.01) is not None
    assert store.capabilities == inner.capabilities
    extra = {thread.name for thread in set(threading.enumerate()) - before}
    assert extra <= {"agl-store-watchdog"}
    await store.close()
    with pytest.raises(StoreClosedError):
        await inner.query_rollouts()


async def test_facade_has_every_method_of_the_interface():
    store = LightningStoreThreaded(InMemoryLightningStore())
    rollout = await store.start_rollout("task", worker_id="w")
    assert await store.get_latest_attempt(rollout.rollout_id) == rollout.attempt
    assert await store.release_rollouts("k") == 0
    assert await store.trim(0) == 0
    with pytest.raises(AssertionError):
        await taken(store)
