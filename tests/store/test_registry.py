"""Resources, workers and statistics on every home."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.store import LightningStore
from agentlightning.types import LLM, PromptTemplate, ProxyLLM, Worker

from .helpers import LLM_RESOURCES, enqueue, span_of, taken


async def worker_of(store: LightningStore, worker_id: str = "w") -> Worker:
    worker = await store.get_worker_by_id(worker_id)
    assert worker is not None
    return worker


async def test_resources_come_back_as_the_same_kinds(store: LightningStore):
    given = {
        "llm": LLM(endpoint="http://a/v1", model="m", sampling_parameters={"temperature": 0.5}),
        "proxy": ProxyLLM(endpoint="http://b/v1", model="m", api_key="k"),
        "prompt": PromptTemplate(template="{x}"),
    }
    added = await store.add_resources(given)
    assert added.version == 1
    assert added.resources == given
    assert await store.get_resources_by_id(added.resources_id) == added


async def test_updating_raises_the_version_and_makes_it_the_latest(store: LightningStore):
    assert await store.get_latest_resources() is None
    old = await store.add_resources(LLM_RESOURCES)
    new = await store.add_resources(LLM_RESOURCES)
    assert await store.get_latest_resources() == new
    updated = await store.update_resources(old.resources_id, {"p": PromptTemplate(template="x")})
    assert (updated.version, updated.create_time, set(updated.resources)) == (2, old.create_time, {"p"})
    assert await store.get_latest_resources() == updated
    assert (await store.update_resources("mine", LLM_RESOURCES)).version == 1
    assert await store.get_resources_by_id("nope") is None


async def test_resource_filters(store: LightningStore):
    for name in ("rs-b1", "rs-b2", "rs-a1"):
        await store.update_resources(name, LLM_RESOURCES)
    await store.update_resources("rs-b1", LLM_RESOURCES)

    async def found(**filters: Any) -> list[str]:
        return [update.resources_id for update in await store.query_resources(**filters)]

    assert await found() == ["rs-b1", "rs-b2", "rs-a1"]
    assert await found(resources_id="rs-b2") == ["rs-b2"]
    assert await found(resources_id_contains="-b") == ["rs-b1", "rs-b2"]
    assert await found(sort_by="resources_id") == ["rs-a1", "rs-b1", "rs-b2"]
    assert await found(sort_by="version", sort_order="desc", limit=1) == ["rs-b1"]


async def test_what_is_no_resource_is_refused(store: LightningStore):
    bad: Any = {"main_llm": "http://a/v1"}
    with pytest.raises(ValueError, match="main_llm"):
        await store.add_resources(bad)
    assert await store.get_latest_resources() is None


async def test_worker_is_busy_from_dequeue_until_its_attempt_ends(store: LightningStore):
    await enqueue(store, 1)
    rollout = await taken(store, "w")
    worker = await worker_of(store)
    assert (worker.status, worker.current_rollout_id) == ("busy", rollout.rollout_id)
    assert worker.last_dequeue_time == worker.last_busy_time == rollout.attempt.start_time
    await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    worker = await worker_of(store)
    assert (worker.status, worker.current_rollout_id, worker.current_attempt_id) == ("idle", None, None)
    assert worker.last_idle_time is not None


@pytest.mark.parametrize("status", ["timeout", "unresponsive"])
async def test_worker_of_a_lost_attempt_is_unknown_until_heard_of(store: LightningStore, status: Any):
    rollout = await store.start_rollout("task", worker_id="w")
    await store.update_attempt(rollout.rollout_id, "latest", status=status)
    assert (await worker_of(store)).status == "unknown"
    assert await store.dequeue_rollout("w") is None
    assert (await worker_of(store)).status == "idle"


async def test_worker_with_several_attempts_is_busy_until_the_last_ends(store: LightningStore):
    await enqueue(store, 3)
    first, second = await store.dequeue_many_rollouts(limit=2, worker_id="w")
    third = await taken(store, "w")
    assert (await worker_of(store)).current_attempt_id == third.attempt.attempt_id
    for ended, current in [(third, second), (first, second)]:
        await store.update_attempt(ended.rollout_id, "latest", status="succeeded")
        worker = await worker_of(store)
        assert (worker.status, worker.current_attempt_id) == ("busy", current.attempt.attempt_id)
    await store.update_attempt(second.rollout_id, "latest", status="succeeded")
    assert (await worker_of(store)).status == "idle"


async def test_attempt_that_changes_hands_changes_both_workers(store: LightningStore):
    rollout = await store.start_rollout("task", worker_id="a")
    await store.update_attempt(rollout.rollout_id, "latest", worker_id="b")
    assert (await worker_of(store, "a")).status == "idle"
    assert (await worker_of(store, "b")).status == "busy"


async def test_empty_dequeue_leaves_an_idle_worker(store: LightningStore):
    assert await store.dequeue_rollout("w") is None
    worker = await worker_of(store)
    assert worker.status == "idle"
    assert worker.last_dequeue_time is not None


async def test_heartbeats(store: LightningStore):
    new = await store.update_worker("w", {"cpu": 0.5})
    assert (new.status, new.heartbeat_stats) == ("unknown", {"cpu": 0.5})
    assert new.last_heartbeat_time is not None
    assert (await store.update_worker("w")).heartbeat_stats == {"cpu": 0.5}
    assert await store.get_worker_by_id("x") is None
    with pytest.raises(TypeError, match=r"`heartbeat_stats\.x`"):
        await store.update_worker("w", {"x": object()})


async def test_worker_filters(store: LightningStore):
    await enqueue(store, 1)
    for name in ("a-1", "a-2", "b-1"):
        await store.dequeue_rollout(name)

    async def found(**filters: Any) -> list[str]:
        return [worker.worker_id for worker in await store.query_workers(**filters)]

    assert await found(status_in=["busy"]) == ["a-1"]
    assert await found(worker_id_contains="-1") == ["a-1", "b-1"]
    assert await found(status_in=["busy"], worker_id_contains="b", filter_logic="or") == ["a-1", "b-1"]
    assert await found(sort_by="worker_id", sort_order="desc", limit=1) == ["b-1"]


async def test_statistics_count_everything(store: LightningStore):
    await enqueue(store, 3)
    rollout = await taken(store, "w")
    await store.add_many_spans([span_of(rollout), span_of(rollout)])
    await store.add_resources(LLM_RESOURCES)
    statistics = await store.statistics()
    assert statistics.pop("uptime") >= 0
    assert statistics.pop("time") >= rollout.start_time
    assert statistics.pop("name")
    assert statistics == {
        "total_rollouts": 3,
        "total_attempts": 1,
        "total_spans": 2,
        "total_resources": 1,
        "total_workers": 1,
        "queued_rollouts": 2,
    }
