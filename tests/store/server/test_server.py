"""`LightningStoreServer`: who may call, its life, clients that go away, other processes."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.base import LightningStore
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import ConfigError, StoreClosedError

from .conftest import API, Http

FOREVER = 120.0
"""Seconds; a wait that long means that a test hangs."""


# -- who may call -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded() -> AsyncIterator[LightningStoreServer]:
    server = LightningStoreServer(InMemoryLightningStore(), token="secret")
    await server.start()
    yield server
    await server.close()


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer secret"}, {"x-api-key": "secret"}])
async def test_a_token_opens_the_door(guarded: LightningStoreServer, headers: dict[str, str]):
    async with aiohttp.ClientSession(headers=headers) as session:
        assert (await Http(guarded.endpoint, session).get(f"{API}/statistics")).status == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"x-api-key": ""}])
async def test_without_it_only_health_is_served(guarded: LightningStoreServer, headers: dict[str, str]):
    async with aiohttp.ClientSession(headers=headers) as session:
        http = Http(guarded.endpoint, session)
        for path in (f"{API}/statistics", "/v1/prometheus", "/openapi.json", "/nowhere"):
            assert (await http.get(path)).status == 401
        assert (await http.post("/v1/traces", {})).status == 401
        health = await http.get(f"{API}/health")
        assert (health.status, health.body["status"]) == (200, "ok")


async def test_the_environment_gives_client_and_server_their_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGL_STORE_TOKEN", "from the environment")
    server = LightningStoreServer(InMemoryLightningStore())
    await server.start()
    client = LightningStoreClient(server.endpoint)
    monkeypatch.delenv("AGL_STORE_TOKEN")
    stranger = LightningStoreClient(server.endpoint, token="wrong")
    try:
        assert (await client.statistics()).get("total_rollouts") == 0
        with pytest.raises(ConfigError, match="token"):
            await stranger.statistics()
        assert (await pickle.loads(pickle.dumps(client)).statistics()).get("total_rollouts") == 0
    finally:
        await client.close()
        await stranger.close()
        await server.close()


def test_an_open_host_needs_a_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AGL_STORE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="`token`"):
        LightningStoreServer(InMemoryLightningStore(), host="0.0.0.0")
    server = LightningStoreServer(InMemoryLightningStore(), host="0.0.0.0", port=4747, token="t")
    assert server.endpoint == "http://127.0.0.1:4747"
    assert server.otlp_traces_endpoint() == "http://127.0.0.1:4747/v1/traces"
    named = LightningStoreServer(InMemoryLightningStore(), host="::", port=4747, token="t", access_host="box")
    assert named.endpoint == "http://box:4747"


@pytest.mark.parametrize("options", [{"port": 70000}, {"launch_mode": "mp"}])
def test_wrong_options_are_named(options: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LightningStoreServer(InMemoryLightningStore(), **options)


# -- its life ---------------------------------------------------------------------------------------------------------


async def test_a_server_starts_stops_and_starts_again_on_its_store():
    server = LightningStoreServer(InMemoryLightningStore())
    with pytest.raises(RuntimeError, match="port"):
        _ = server.endpoint
    assert not server.is_running()
    for count in (1, 2):
        await server.start()
        await server.start()
        assert server.is_running()
        client = LightningStoreClient(server.endpoint)
        await client.enqueue_rollout(count)
        assert (await server.statistics()).get("total_rollouts") == count
        await client.close()
        await server.stop()
        await server.stop()
        assert not server.is_running()
    await server.store.close()


async def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            await LightningStoreServer(InMemoryLightningStore(), port=port).start()


async def test_stopping_tells_those_who_wait_that_the_store_is_closed():
    server = LightningStoreServer(InMemoryLightningStore())
    await server.start()
    client = LightningStoreClient(server.endpoint)
    queued = await client.start_rollout("running")
    waits = [
        asyncio.create_task(client.dequeue_rollout("w", timeout=FOREVER)),
        asyncio.create_task(client.wait_for_rollouts(rollout_ids=[queued.rollout_id])),
    ]
    await _until_waiting(server.store, 2)
    await server.stop()
    for wait in waits:
        with pytest.raises(StoreClosedError):
            await wait
    await client.close()
    await server.store.close()


async def test_a_server_is_the_store_that_it_serves(server: LightningStoreServer, client: LightningStoreClient):
    rollout = await server.enqueue_rollout("task")
    assert await client.get_rollout_by_id(rollout.rollout_id) == rollout
    assert await server.get_rollout_by_id(rollout.rollout_id) == rollout
    assert server.capabilities.get("zero_copy")
    methods = {name for name, value in vars(LightningStore).items() if asyncio.iscoroutinefunction(value)}
    assert methods <= set(vars(LightningStoreServer))


# -- clients that go away ---------------------------------------------------------------------------------------------


async def test_a_long_poll_ends_when_its_client_goes_away(server: LightningStoreServer, client: LightningStoreClient):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
    body = json.dumps({"worker_id": "gone", "timeout": FOREVER}).encode()
    head = f"POST {API}/queues/rollouts/dequeue HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await _until_waiting(server.store, 1)
    writer.close()
    await _until_waiting(server.store, 0)
    rollout = await client.enqueue_rollout("task")
    taken = await client.dequeue_rollout("alive")
    assert taken is not None
    assert (taken.rollout_id, taken.attempt.worker_id) == (rollout.rollout_id, "alive")
    assert not await reader.read()


async def _until_waiting(store: LightningStore, count: int) -> None:
    """Wait until so many calls wait in the store."""
    assert isinstance(store, InMemoryLightningStore)
    waits = store._waits
    async with asyncio.timeout(FOREVER):
        while len(waits._for_queue) + len(waits._for_rollout) != count:  # noqa: ASYNC110  # nothing to wait for
            await asyncio.sleep(0.01)


# -- other processes --------------------------------------------------------------------------------------------------


def _enqueue_in_child(server: LightningStore) -> None:
    asyncio.run(server.enqueue_rollout("from the child"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_in_another_process_it_is_a_client(server: LightningStoreServer, method: str):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    child = multiprocessing.get_context(method).Process(target=_enqueue_in_child, args=(server,))
    child.start()
    await asyncio.to_thread(child.join, FOREVER)
    assert child.exitcode == 0
    (rollout,) = await server.query_rollouts()
    assert rollout.input == "from the child"


async def test_pickled_it_is_a_client(server: LightningStoreServer):
    client = pickle.loads(pickle.dumps(server))
    assert isinstance(client, LightningStoreClient)
    assert client.server_address_root == server.endpoint
    await client.enqueue_rollout("task")
    assert (await server.statistics()).get("total_rollouts") == 1
    await client.close()


SERVE = """
import asyncio, sys
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.client_server import LightningStoreServer
async def main():
    server = LightningStoreServer(InMemoryLightningStore())
    await server.start()
    print(server.endpoint, flush=True)
    await server.run_forever()
    print("ended", server.is_running(), flush=True)
asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_forever_ends_well_on_a_signal(number: int):
    command = [sys.executable, "-c", SERVE]
    child = await asyncio.to_thread(subprocess.Popen[str], command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        endpoint = (await asyncio.to_thread(child.stdout.readline)).strip()
        client = LightningStoreClient(endpoint)
        waiting = asyncio.create_task(client.dequeue_rollout("w", timeout=FOREVER))
        await client.enqueue_rollout("first")
        assert await waiting is not None
        waiting = asyncio.create_task(client.dequeue_rollout("w", timeout=FOREVER))
        await asyncio.sleep(0.2)  # so that it waits in the server
        child.send_signal(number)
        with pytest.raises(StoreClosedError):
            await waiting
        assert await asyncio.to_thread(child.stdout.read) == "ended False\n"
        assert await asyncio.to_thread(child.wait, FOREVER) == 0
        await client.close()
    finally:
        child.kill()
        child.wait()


async def test_who_would_wait_while_the_server_ends_gets_no_work(server: LightningStoreServer, http: Http):
    await server.enqueue_rollout("left over")
    server.end_waits()
    answer = await http.post(f"{API}/queues/rollouts/dequeue", {"worker_id": "w", "timeout": 5})
    assert (answer.status, answer.body["error_type"]) == (410, "StoreClosedError")
    assert (await server.statistics()).get("queued_rollouts") == 1
