"""The event server, over HTTP."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from agentlightning.emitter import find_final_reward
from agentlightning.litagent.event_server import Door, EventServer, event_server
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer, Tracer
from agentlightning.types import AttemptedRollout, LeaseLostError


@asynccontextmanager
async def attempt(
    store: InMemoryLightningStore, tracer: Tracer | None = None
) -> AsyncGenerator[tuple[AttemptedRollout, EventServer, Door], None]:
    rollout = await store.start_rollout("task")
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    async with (tracer or OtelTracer()).trace_context(**ids, store=store):
        server = await event_server()
        async with server.door() as door:
            yield rollout, server, door


async def post(door: Door, body: Any, key: str | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    given = {"Authorization": f"Bearer {door.key if key is None else key}", **headers}
    how: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
    async with aiohttp.ClientSession() as session, session.post(door.url, headers=given, **how) as answer:
        return answer.status, await answer.json()


REWARD = {"event_type": "reward", "value": 0.5}


@pytest.fixture
async def store() -> InMemoryLightningStore:
    return InMemoryLightningStore()


@pytest.mark.parametrize("tracer", [OtelTracer(), Tracer()])
async def test_a_reward_is_in_the_store_when_it_is_answered(store: InMemoryLightningStore, tracer: Tracer):
    async with attempt(store, tracer) as (rollout, _, door):
        assert (await post(door, REWARD))[0] == 201
        assert find_final_reward(await store.query_spans(rollout.rollout_id)) == 0.5
        assert door.rewards == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"no json", "JSON"),
        (b"", "JSON"),
        ([1], "object"),
        ({}, "`event_type`"),
        ({"event_type": "praise"}, "`event_type`"),
        ({"event_type": "reward"}, "`value`: Field required"),
        ({"event_type": "reward", "value": "high"}, "`reward` must be a number"),
        ({"event_type": "reward", "value": True, "primary_key": "a"}, "`primary_key`"),
        ({"event_type": "reward", "value": {"a": "x"}}, "`reward['a']` must be a number"),
        ({"event_type": "reward", "value": {}}, "`primary_key`"),
        ({"event_type": "reward", "value": {"a": 1}, "primary_key": "b"}, "`primary_key`"),
        ({"event_type": "reward", "value": 1, "attributes": 3}, "`attributes`: "),
        ({"event_type": "reward", "value": 1, "weight": 3}, "`weight`: "),
        (b'{"event_type": "reward", "value": NaN}', "finite"),
        ({"event_type": "annotation"}, "`attributes`: Field required"),
        ({"event_type": "message", "body": 3}, "`body`: "),
        ({"event_type": "object"}, "`value`: Field required"),
        ({"event_type": "exception"}, "`message`: Field required"),
    ],
)
async def test_a_bad_body_is_refused_by_its_field(store: InMemoryLightningStore, body: Any, expected: str):
    async with attempt(store) as (rollout, _, door):
        status, answer = await post(door, body)
        assert status == 422, answer
        assert expected in answer["detail"]
        assert not door.rewards
    assert not await store.query_spans(rollout.rollout_id)


async def test_a_body_that_is_too_long(store: InMemoryLightningStore):
    async with attempt(store) as (_, _, door):
        given = {"Authorization": f"Bearer {door.key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(door.url, data=b" " * 5_000_000, headers=given) as a,
        ):
            assert a.status == 413


async def test_a_wrong_key_is_refused(store: InMemoryLightningStore):
    async with attempt(store) as (rollout, _, door), attempt_beside(store) as other:
        assert door.key != other.key
        for key in ("", "wrong", door.key[:-1]):
            status, answer = await post(door, REWARD, key)
            assert status == 401
            assert "AGL_KEY" in answer["detail"]
        assert (await post(door, REWARD, "", **{"x-api-key": door.key}))[0] == 201
        await post(door, {"event_type": "reward", "value": 0.1}, other.key)  # speaks for the other attempt
    assert find_final_reward(await store.query_spans(rollout.rollout_id)) == 0.5


@asynccontextmanager
async def attempt_beside(store: InMemoryLightningStore) -> AsyncGenerator[Door, None]:
    """Another attempt, in a context of its own."""
    ready: asyncio.Future[Door] = asyncio.get_running_loop().create_future()
    end = asyncio.Event()

    async def live() -> None:
        async with attempt(store) as (_, _, door):
            ready.set_result(door)
            await end.wait()

    task = asyncio.create_task(live(), context=contextvars.Context())
    try:
        yield await ready
    finally:
        end.set()
        await task


async def test_an_ended_attempt_says_so(store: InMemoryLightningStore):
    async with attempt(store) as (rollout, server, door):
        server.close(door)
        assert (await post(door, REWARD))[0] == 409
    status, answer = await post(door, REWARD)
    assert status == 409
    assert "has ended" in answer["detail"]
    assert not await store.query_spans(rollout.rollout_id)


async def test_an_attempt_that_lost_its_lease_is_told(store: InMemoryLightningStore):
    async def too_late() -> None:
        async with attempt(store) as (rollout, _, door):
            await store.update_rollout(rollout.rollout_id, status="cancelled")
            status, answer = await post(door, REWARD)
            assert status == 409
            assert "cancelled" in answer["detail"]

    with pytest.raises(LeaseLostError):
        await too_late()


async def test_other_methods_and_paths(store: InMemoryLightningStore):
    async with attempt(store) as (_, _, door), aiohttp.ClientSession() as session:
        async with session.get(door.url) as answer:
            assert answer.status == 405
        async with session.post(f"{door.url}/other") as answer:
            assert answer.status == 404


async def test_one_server_serves_the_loop(store: InMemoryLightningStore):
    servers = await asyncio.gather(*(event_server() for _ in range(5)))
    assert len({id(server) for server in servers}) == 1


def test_each_loop_has_its_own_and_it_ends_with_it():
    async def url() -> str:
        return (await event_server()).url

    first, second = asyncio.run(url()), asyncio.run(url())
    assert first

    async def reach(there: str) -> int:
        async with aiohttp.ClientSession() as session, session.post(there) as answer:
            return answer.status

    for there in (first, second):
        with pytest.raises(aiohttp.ClientConnectionError):
            asyncio.run(reach(there))
