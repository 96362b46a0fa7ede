"""The store fixture: every test that takes `store` runs on every home."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore

from ..postgres import PostgresServer, postgres

__all__ = ["postgres"]

LOCAL_HOMES = ["memory", "sqlite", "postgres"]


@pytest.fixture(params=[*LOCAL_HOMES, "http"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LightningStore]:
    if request.param == "http":
        async with over_http(InMemoryLightningStore()) as client:
            yield client
        return
    home = open_home(request, tmp_path)
    yield home
    await home.close()


@pytest.fixture(params=LOCAL_HOMES)
async def local_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LightningStore]:
    """For what only a store in this process can do."""
    home = open_home(request, tmp_path)
    yield home
    await home.close()


def open_home(request: pytest.FixtureRequest, tmp_path: Path) -> LightningStore:
    """The home that the fixture's parameter names."""
    if request.param == "memory":
        return InMemoryLightningStore()
    if request.param == "sqlite":
        return SqlLightningStore(tmp_path / "store.sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return SqlLightningStore(server.new_schema())


@asynccontextmanager
async def over_http(home: LightningStore) -> AsyncIterator[LightningStore]:
    """A client of a server of `home`."""
    from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer

    server = LightningStoreServer(home)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    yield client
    await client.close()
    await server.stop()
    await home.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqlLightningStore]:
    home = SqlLightningStore(tmp_path / "store.sqlite", lock_timeout=0.05)
    yield home
    await home.close()
