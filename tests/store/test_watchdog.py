"""The watchdog, with real threads and real time limits of fractions of a second. Nobody calls the store meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore, clock
from agentlightning.store.replies import keyed
from agentlightning.store.watchdog import Watchdog

from .helpers import enqueue, retrying, span_of, status_of, taken

SOON = 20.0
"""Seconds after which a test gives up; nothing is measured."""


class Open(Protocol):
    def __call__(self, **settings: Any) -> LightningStore: ...


@pytest.fixture(params=["memory", "sqlite"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens stores that look after themselves every 50 ms."""
    stores: list[LightningStore] = []

    def open_store(**settings: Any) -> LightningStore:
        settings = {"scan_interval": 0.05, **settings}
        if request.param == "memory":
            stores.append(InMemoryLightningStore(**settings))
        else:
            stores.append(SqlLightningStore(tmp_path / f"{len(stores)}.sqlite", **settings))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(SOON):
        while not await true():  # noqa: ASYNC110  # nobody is told of it
            await asyncio.sleep(0.02)


async def test_timed_out_attempt_is_requeued_without_any_traffic(opened: Open):
    store = opened()
    (rollout_id,) = await enqueue(store, 1, config=retrying("timeout", timeout_seconds=0.2))
    first = await taken(store, "a")
    async with asyncio.timeout(SOON):
        again = await store.dequeue_rollout("b", timeout=SOON)
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (rollout_id, 2)
    assert (await store.query_attempts(rollout_id))[0].status == "timeout"
    assert first.attempt.attempt_id != again.attempt.attempt_id


async def test_whoever_waits_for_a_rollout_hears_of_its_timeout(opened: Open):
    store = opened()
    rollout = await store.start_rollout("task", config=retrying(timeout_seconds=0.2))
    (ended,) = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=SOON)
    assert ended.status == "failed"


async def test_silent_attempt_is_unresponsive_and_a_loud_one_is_not(opened: Open):
    store = opened()
    silent, loud = [
        await store.start_rollout(n, config=retrying(unresponsive_seconds=limit)) for n, limit in enumerate((1.5, 1.0))
    ]
    async with asyncio.timeout(SOON):
        while await status_of(store, silent.rollout_id) != "failed":
            await store.update_attempt(loud.rollout_id, loud.attempt.attempt_id)
            await store.add_span(span_of(loud))
            await asyncio.sleep(0.02)
    assert (await store.query_attempts(silent.rollout_id))[0].status == "unresponsive"
    assert await status_of(store, loud.rollout_id) == "running"


async def test_worker_that_stops_its_heartbeats_loses_its_attempts_whatever_their_config(opened: Open):
    store = opened(worker_timeout=0.3)
    await store.update_worker("gone", {})
    gone = await store.start_rollout("task", worker_id="gone")
    quiet = await store.start_rollout("task", worker_id="never sent a heartbeat")
    (ended,) = await store.wait_for_rollouts(rollout_ids=[gone.rollout_id], timeout=SOON)
    assert ended.status == "failed"
    assert (await store.query_attempts(gone.rollout_id))[0].status == "unresponsive"
    assert await status_of(store, quiet.rollout_id) == "preparing"


async def test_worker_that_goes_on_with_its_heartbeats_keeps_its_attempts(opened: Open):
    store = opened(worker_timeout=1.0)
    await store.update_worker("alive")
    await store.update_worker("gone")
    alive, gone = [await store.start_rollout("task", worker_id=name) for name in ("alive", "gone")]
    async with asyncio.timeout(SOON):
        while await status_of(store, gone.rollout_id) != "failed":
            await store.update_worker("alive")
            await asyncio.sleep(0.02)
    assert await status_of(store, alive.rollout_id) == "preparing"


@pytest.mark.parametrize("jump", [1e6, -1e6])
async def test_jumps_of_the_wall_clock_change_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch, jump: float):
    store = opened()
    config = retrying(timeout_seconds=30, unresponsive_seconds=30)
    calm = await store.start_rollout("task", config=config)
    wall = time.time
    monkeypatch.setattr(clock.time, "time", lambda: wall() + jump)
    late = await store.start_rollout("task", config=retrying(timeout_seconds=0.2))
    assert abs(late.attempt.start_time - calm.attempt.start_time) < 1000
    await store.wait_for_rollouts(rollout_ids=[late.rollout_id], timeout=SOON)
    assert await status_of(store, late.rollout_id) == "failed"
    assert await status_of(store, calm.rollout_id) == "preparing"


async def test_nobody_is_given_up_for_the_time_in_which_the_store_itself_stood_still(
    opened: Open, monkeypatch: pytest.MonkeyPatch
):
    store = opened(worker_timeout=50)
    await store.update_worker("w")
    silent = await store.start_rollout("task", worker_id="w", config=retrying(unresponsive_seconds=50))
    timed = await store.start_rollout("task", config=retrying(timeout_seconds=50))
    steady = clock._steady  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(clock, "_steady", lambda: steady() + 100)  # asleep for 100 seconds
    await store.wait_for_rollouts(rollout_ids=[timed.rollout_id], timeout=SOON)
    assert (await store.query_attempts(timed.rollout_id))[0].status == "timeout"
    assert await store.expire_attempts() == []
    assert await status_of(store, silent.rollout_id) == "preparing"
    late = await store.expire_attempts(now=silent.attempt.start_time + 160)
    assert [each.attempt_id for each in late] == [silent.attempt.attempt_id], "the grace is not for ever"


async def test_opening_again_gives_everybody_the_time_to_be_heard_of(tmp_path: Path):
    first = SqlLightningStore(tmp_path / "store.sqlite", scan_interval=60)
    await first.update_worker("w")
    rollout = await first.start_rollout("task", worker_id="w", config=retrying(unresponsive_seconds=0.4))
    await first.close()
    await asyncio.sleep(0.5)
    second = SqlLightningStore(tmp_path / "store.sqlite", scan_interval=60)
    assert await second.expire_attempts() == []
    await second.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id)
    await second.close()


async def test_scan_that_fails_is_logged_and_the_next_one_is_made(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    store = opened()
    expire, failures = store.expire_attempts, iter([OSError("the disk is gone")])

    async def fail_once(now: float | None = None) -> Any:
        for failure in failures:
            raise failure
        return await expire(now)

    monkeypatch.setattr(store, "expire_attempts", fail_once)
    rollout = await store.start_rollout("task", config=retrying(timeout_seconds=0.1))
    await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=SOON)
    assert await status_of(store, rollout.rollout_id) == "failed"
    assert "a scan of the store failed, the next one is in 0.05 s" in caplog.text
    assert "the disk is gone" in caplog.text


async def test_sql_home_keeps_as_many_ended_rollouts_as_it_is_told(tmp_path: Path):
    store = SqlLightningStore(tmp_path / "store.sqlite", scan_interval=0.05, retention=3)
    ids = await enqueue(store, 10)
    for _ in ids[:-1]:
        rollout = await taken(store)
        await store.add_span(span_of(rollout))
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")

    async def trimmed() -> bool:
        return (await store.statistics())["total_rollouts"] == 4

    await until(trimmed)
    assert [each.rollout_id for each in await store.query_rollouts()] == ids[-4:]
    statistics = await store.statistics()
    assert (statistics["total_attempts"], statistics["total_spans"]) == (3, 3)
    await store.close()


async def test_old_replies_are_dropped(opened: Open, monkeypatch: pytest.MonkeyPatch):
    store = opened()
    with keyed("k"):
        await store.start_rollout("task")
        await store.start_rollout("task")
    steady = clock._steady  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(clock, "_steady", lambda: steady() + 700)

    async def forgotten() -> bool:
        with keyed("k"):
            await store.start_rollout("task")
        return (await store.query_rollouts()).total > 1

    await until(forgotten)


def watchdogs() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "agl-store-watchdog"}


async def test_close_ends_the_thread(opened: Open):
    before = watchdogs()
    store = opened()
    await store.start_rollout("task")
    assert len(watchdogs() - before) == 1
    await store.close()
    assert not watchdogs() - before


async def test_memory_store_without_attempts_needs_no_thread():
    before = watchdogs()
    store = InMemoryLightningStore()
    await enqueue(store, 1)
    await store.query_rollouts()
    assert not watchdogs() - before


async def test_thread_does_not_keep_a_forgotten_store_alive():
    before = watchdogs()
    store = InMemoryLightningStore(scan_interval=3600)
    await store.start_rollout("task")
    (thread,) = watchdogs() - before
    forgotten = weakref.ref(store)
    del store
    gc.collect()
    assert forgotten() is None
    thread.join(SOON)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scan_interval": 0}, "`scan_interval` is 0"),
        ({"scan_debounce_seconds": -1}, "`scan_interval` is -1"),
        ({"worker_timeout": 0}, "`worker_timeout` is 0"),
    ],
)
def test_wrong_settings_are_refused(settings: Any, message: str):
    with pytest.raises(ValueError, match=message):
        InMemoryLightningStore(**settings)


def test_upstreams_settings_are_taken():
    store = InMemoryLightningStore(thread_safe=True, scan_debounce_seconds=0)
    assert store.capabilities["thread_safe"]


def test_watchdog_that_was_closed_does_not_start():
    class Nothing:
        async def scan(self) -> None: ...

    before, nothing = watchdogs(), Nothing()
    watchdog = Watchdog(nothing, 0.01)
    asyncio.run(watchdog.close())
    watchdog.start()
    assert not watchdogs() - before
