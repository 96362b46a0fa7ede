"""The store fixture: every test that takes `store` runs on both homes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LightningStore]:
    home = InMemoryLightningStore() if request.param == "memory" else SqlLightningStore(tmp_path / "store.sqlite")
    yield home
    await home.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqlLightningStore]:
    home = SqlLightningStore(tmp_path / "store.sqlite", lock_timeout=0.05)
    yield home
    await home.close()
