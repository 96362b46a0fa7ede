"""The memory home: its retention, and that its index gives what a look at every row would give."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.store import InMemoryLightningStore, clock, home, memory
from agentlightning.store.memory_rollouts import RolloutTable
from agentlightning.store.query import Query, answer, make_query
from agentlightning.store.replies import keyed
from agentlightning.store.rows import RolloutRow
from agentlightning.types import AttemptedRollout, Rollout

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


async def test_rollout_that_ended_with_its_attempt_under_way_is_dropped_with_it():
    store = InMemoryLightningStore(retention=0)
    rollout = await store.start_rollout("task", worker_id="w")
    await store.update_rollout(rollout.rollout_id, status="cancelled")
    assert await store.expire_attempts(now=1e12) == []
    assert (await store.statistics())["total_attempts"] == 0
    assert await store.dequeue_rollout("w") is None


async def test_memory_is_flat_beyond_the_retention():
    store = InMemoryLightningStore(retention=100, scan_interval=3600)  # the first scan takes some memory once
    await finish(store, 100)
    tracemalloc.start()
    used: list[int] = []
    for _ in range(2):
        for _ in range(15):
            await finish(store, 100)
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert used[1] - used[0] < 100_000, "1500 rollouts more take no more memory"


async def test_memory_is_flat_also_for_workers_and_replies_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "WORKERS_KEPT", 100)
    store = InMemoryLightningStore(retention=100, scan_interval=3600)
    tracemalloc.start()
    used: list[int] = []
    steady = clock._steady  # pyright: ignore[reportPrivateUsage]
    hours = 0
    monkeypatch.setattr(clock, "_steady", lambda: steady() + 3600 * hours)
    for part in range(2):
        for number in range(1500):
            with keyed(f"{part} {number}"):
                rollout = await store.start_rollout("task", worker_id=f"{part} {number}")
            await store.update_worker(f"{part} {number}", {"cpu": 1})
            await store.add_span(span_of(rollout))
            await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
        hours += 1
        for _ in range(home.HOUSEKEEPING):
            await store.scan()
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert used[1] - used[0] < 100_000
    assert (await store.statistics())["total_workers"] == 100
    assert len(await store.query_workers(worker_id_contains="1 1499")) == 1, "the last to be heard of are kept"
    await store.close()


async def test_busy_workers_are_never_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "WORKERS_KEPT", 2)
    store = InMemoryLightningStore(scan_interval=3600)
    for number in range(4):
        await store.start_rollout("task", worker_id=f"busy {number}")
        await store.update_worker(f"idle {number}")
    await store.scan()
    assert {worker.worker_id for worker in await store.query_workers()} == {f"busy {number}" for number in range(4)}
    await store.close()


async def test_trim_drops_what_is_beyond_and_not_what_is_awaited():
    store = InMemoryLightningStore()
    open_one = await store.enqueue_rollout("task")
    ids = await finish_cancelled(store, 400)
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[open_one.rollout_id, *ids[:300]]))
    await asyncio.sleep(0)
    assert await store.trim(50) == 50
    assert await store.trim(50) == 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await store.trim(50) == 300
    assert [rollout.rollout_id for rollout in await store.query_rollouts()] == [open_one.rollout_id, *ids[-50:]]
    with pytest.raises(ValueError, match="`retention` is -1"):
        await store.trim(-1)


async def finish_cancelled(store: InMemoryLightningStore, count: int) -> list[str]:
    ids = await enqueue(store, count)
    for rollout_id in ids:
        await store.update_rollout(rollout_id, status="cancelled")
    return ids


STATUSES = ["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]


@given(
    st.lists(st.tuples(st.integers(0, 15), st.sampled_from([*STATUSES, None])), max_size=60),
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "status_in": st.lists(st.sampled_from(STATUSES), max_size=3),
                "rollout_id_in": st.lists(st.integers(0, 17), max_size=4),
                "rollout_id_contains": st.sampled_from(["", "a", "ro-000", "00001", "o-00000000000a", "ro-1", "no"]),
                "filter_logic": st.sampled_from(["and", "or"]),
                "sort_by": st.sampled_from(["status", "rollout_id", "start_time", "end_time", None]),
                "sort_order": st.sampled_from(["asc", "desc"]),
                "limit": st.integers(1, 9) | st.just(-1),
                "offset": st.integers(0, 5),
            },
        ),
        min_size=1,
        max_size=8,
    ),
)
@settings(deadline=None, max_examples=200)
def test_index_gives_what_a_look_at_every_row_gives(moves: list[tuple[int, Any]], queries: list[dict[str, Any]]):
    table, plain = RolloutTable(), dict[str, RolloutRow]()
    for step, (number, status) in enumerate(moves):
        rollout_id = f"ro-{number:012x}"
        if status is None:
            if plain.pop(rollout_id, None) is not None:
                table.drop(rollout_id)
        else:
            end = step / 2 if status in ("failed", "succeeded", "cancelled") else None
            row = RolloutRow(rollout_id, "1", number % 3, end, None, None, status, "{}", None, 0, None, 0)
            plain[rollout_id] = row
            table.save(row)
        for given_query in queries if step % 7 == 0 else []:
            query = rollout_query(**given_query)
            assert table.query(query) == answer(query, plain.values())
    for given_query in queries:
        query = rollout_query(**given_query)
        assert table.query(query) == answer(query, plain.values())
    assert len(table) == len(plain)


def rollout_query(
    status_in: list[str] | None = None,
    rollout_id_in: list[int] | None = None,
    rollout_id_contains: str | None = None,
    filter_logic: Any = "and",
    sort_by: str | None = None,
    sort_order: Any = "asc",
    limit: int = -1,
    offset: int = 0,
) -> Query:
    ids = None if rollout_id_in is None else [f"ro-{number:012x}" for number in rollout_id_in]
    return make_query(
        "rollouts",
        Rollout,
        within={"status": status_in, "rollout_id": ids},
        contains={"rollout_id": rollout_id_contains},
        filter_logic=filter_logic,
        sort_by=sort_by,
        sort_order=sort_order,
        limit=limit,
        offset=offset,
    )


def test_negative_retention_is_refused():
    with pytest.raises(ValueError, match="`retention` is -1"):
        InMemoryLightningStore(retention=-1)
