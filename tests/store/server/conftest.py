"""A server of a memory store, and plain HTTP to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer

API = "/v1/agl"


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Any


class Http:
    """Requests as any program in any language would send them."""

    def __init__(self, endpoint: str, session: aiohttp.ClientSession) -> None:
        self.endpoint, self._session = endpoint, session

    async def get(self, path: str, **options: Any) -> Answer:
        return await self._ask("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Answer:
        return await self._ask("POST", path, json=json, **options)

    async def _ask(self, method: str, path: str, **options: Any) -> Answer:
        if options.get("data") is not None:
            options.pop("json", None)
        async with self._session.request(method, self.endpoint + path, **options) as answer:
            is_json = answer.content_type == "application/json"
            return Answer(answer.status, await (answer.json() if is_json else answer.read()), answer.headers)


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    made = LightningStoreServer(InMemoryLightningStore())
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def http(server: LightningStoreServer) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(server.endpoint, session)


@pytest.fixture
async def client(server: LightningStoreServer) -> AsyncIterator[LightningStoreClient]:
    made = LightningStoreClient(server.endpoint, retry_delays=(0.05, 0.1))
    yield made
    await made.close()
