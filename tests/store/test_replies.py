"""A request that comes twice under one key is done once, on every home that keeps a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore
from agentlightning.store.home import LedgerStore
from agentlightning.store.replies import keyed
from agentlightning.types import ConflictError, EnqueueRolloutRequest, NotFoundError, PromptTemplate

from ..postgres import PostgresServer
from .helpers import LLM_RESOURCES, enqueue, retrying, span_of, status_of, taken

Call = Callable[[LightningStore], Awaitable[Any]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LedgerStore]:
    if request.param == "memory":
        home: LedgerStore = InMemoryLightningStore()
    elif request.param == "sqlite":
        home = SqlLightningStore(tmp_path / "store.sqlite")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        home = SqlLightningStore(server.new_database())
    yield home
    await home.close()


async def under(key: str, call: Awaitable[Any]) -> Any:
    with keyed(key):
        return await call


REQUESTS = [
    EnqueueRolloutRequest(input={"q": "é"}, mode="train", config=retrying("failed"), metadata={"m": 1}),
    EnqueueRolloutRequest(input=[1, 2], resources_id="mine"),
]

CALLS: dict[str, Call] = {
    "start_rollout": lambda store: store.start_rollout(
        {"q": 1}, mode="val", resources_id="mine", config=retrying("timeout"), metadata={"m": 1}, worker_id="w"
    ),
    "start_rollout of the latest": lambda store: store.start_rollout("task"),
    "enqueue": lambda store: store.enqueue_many_rollouts(REQUESTS),
    "dequeue": lambda store: store.dequeue_many_rollouts(limit=2, worker_id="w"),
    "start_attempt": lambda store: store.start_attempt("to be filled in", worker_id="w"),
    "add_resources": lambda store: store.add_resources({"p": PromptTemplate(template="{x}")}),
    "update_resources": lambda store: store.update_resources("mine", LLM_RESOURCES),
}


async def prepared(store: LightningStore, name: str) -> Call:
    """A store with something of everything, and the call."""
    await store.update_resources("mine", LLM_RESOURCES)
    ids = await enqueue(store, 3, config=retrying("failed"))
    await store.add_resources(LLM_RESOURCES)
    if name == "start_attempt":
        return lambda store: store.start_attempt(ids[0], worker_id="w")
    return CALLS[name]


async def everything(store: LightningStore) -> Any:
    counts = {key: value for key, value in (await store.statistics()).items() if key not in ("uptime", "time")}
    return counts, list(await store.query_rollouts()), list(await store.query_resources())


@pytest.mark.parametrize("name", CALLS)
async def test_second_time_nothing_is_done_and_the_result_is_the_same(store: LedgerStore, name: str):
    call = await prepared(store, name)
    first = await under("k", call(store))
    after = await everything(store)
    assert await under("k", call(store)) == first
    assert await everything(store) == after
    other = await under("another key", call(store))
    assert other != first


@pytest.mark.parametrize("name", CALLS)
async def test_result_stays_the_same_whatever_happened_since(store: LedgerStore, name: str):
    call = await prepared(store, name)
    first = await under("k", call(store))
    await store.add_resources(LLM_RESOURCES)
    await store.update_resources("mine", {"p": PromptTemplate(template="other")})
    for rollout in await store.dequeue_many_rollouts(limit=9):
        await store.add_span(span_of(rollout))
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    for rollout in await store.query_rollouts(status_in=["preparing"]):
        await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    assert await under("k", call(store)) == first


@pytest.mark.parametrize("name", CALLS)
async def test_sixteen_at_once_are_one(store: LedgerStore, name: str):
    call = await prepared(store, name)
    before = await everything(store)
    results = await asyncio.gather(*(under("k", call(store)) for _ in range(16)))
    assert all(result == results[0] for result in results)
    after = await everything(store)
    assert after != before
    await under("k", call(store))
    assert await everything(store) == after


async def test_key_with_other_arguments_or_for_another_method_is_refused(store: LedgerStore):
    await under("k", store.start_rollout("task"))
    for call in (store.start_rollout("other"), store.start_rollout("task", worker_id="w")):
        with pytest.raises(ConflictError, match="'k' was used for `start_rollout`, with other arguments"):
            await under("k", call)
    with pytest.raises(ConflictError, match="'k' was used for `start_rollout`, not for `enqueue_many_rollouts`"):
        await under("k", store.enqueue_rollout("task"))
    assert (await store.query_rollouts()).total == 1


async def test_failure_is_not_recorded(store: LedgerStore):
    with pytest.raises(NotFoundError):
        await under("k", store.start_rollout("task", resources_id="mine"))
    await store.update_resources("mine", LLM_RESOURCES)
    assert (await under("k", store.start_rollout("task", resources_id="mine"))).resources_id == "mine"


async def test_empty_dequeue_is_not_recorded(store: LedgerStore):
    assert await under("k", store.dequeue_many_rollouts(limit=1)) == []
    (rollout_id,) = await enqueue(store, 1)
    (rollout,) = await under("k", store.dequeue_many_rollouts(limit=1))
    assert rollout.rollout_id == rollout_id


async def test_dequeue_that_waits_is_done_once(store: LedgerStore):
    waiting = [asyncio.create_task(under("k", store.dequeue_many_rollouts(limit=1, timeout=30))) for _ in range(2)]
    await asyncio.sleep(0.05)
    await enqueue(store, 2)
    async with asyncio.timeout(20):
        first, second = await asyncio.gather(*waiting)
    assert first == second
    assert (await store.query_attempts(first[0].rollout_id)).total == 1
    assert (await store.statistics())["queued_rollouts"] == 1


async def test_without_a_key_each_call_counts(store: LedgerStore):
    with keyed(None):
        await store.start_rollout("task")
        await store.start_rollout("task")
    assert (await store.query_rollouts()).total == 2


async def test_replies_survive_a_restart(tmp_path: Path):
    first = SqlLightningStore(tmp_path / "store.sqlite")
    call = CALLS["dequeue"]
    await enqueue(first, 3)
    results = [await under("d", call(first)), await under("e", first.enqueue_rollout("task"))]
    await first.close()
    second = SqlLightningStore(tmp_path / "store.sqlite")
    assert [await under("d", call(second)), await under("e", second.enqueue_rollout("task"))] == results
    assert (await second.query_rollouts()).total == 4
    await second.close()


async def test_replies_do_not_grow_with_what_is_enqueued(tmp_path: Path):
    store = InMemoryLightningStore()
    with keyed("k"):
        await store.enqueue_rollout("x" * 1_000_000)
    text = await store._run(lambda ledger: ledger.reply("k"))  # pyright: ignore[reportPrivateUsage]
    assert text is not None
    assert len(text) < 200
    await store.close()


async def test_what_was_taken_under_a_key_is_given_back(store: LedgerStore):
    ids = await enqueue(store, 3)
    first, second = await under("k", store.dequeue_many_rollouts(limit=2, worker_id="w"))
    await store.add_span(span_of(second))  # somebody has begun with it after all
    assert await store.release_rollouts("k") == 1
    assert await status_of(store, first.rollout_id) == "queuing"
    assert await status_of(store, second.rollout_id) == "running"
    assert await store.release_rollouts("k") == 0
    assert await under("k", store.dequeue_many_rollouts(limit=2, worker_id="w")) == [], "it gets nothing any more"
    left = [(await taken(store)).rollout_id for _ in range(2)]
    assert sorted(left) == sorted([ids[0], ids[2]])


async def test_request_that_comes_after_its_release_gets_nothing(store: LedgerStore):
    await enqueue(store, 1)
    assert await store.release_rollouts("k") == 0
    assert await under("k", store.dequeue_many_rollouts(limit=1)) == []
    assert (await store.statistics())["queued_rollouts"] == 1


async def test_only_what_was_dequeued_can_be_released(store: LedgerStore):
    await under("k", store.start_rollout("task"))
    with pytest.raises(ConflictError, match="'k' is of `start_rollout`"):
        await store.release_rollouts("k")


async def test_cancelled_dequeue_leaves_neither_attempt_nor_reply(tmp_path: Path):
    store = SqlLightningStore(tmp_path / "store.sqlite")
    for _ in range(20):
        (rollout_id,) = await enqueue(store, 1)
        task = asyncio.create_task(under("k", store.dequeue_many_rollouts(limit=1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(20):
            (rollout,) = await under("k", store.dequeue_many_rollouts(limit=1, timeout=20))
        assert (rollout.rollout_id, rollout.attempt.sequence_id) == (rollout_id, 1)
        assert await store.get_latest_attempt(rollout_id) == rollout.attempt
        await store.update_attempt(rollout_id, "latest", status="succeeded")
        await store._run(lambda ledger: ledger.drop_reply("k"))  # pyright: ignore[reportPrivateUsage]
    await store.close()
