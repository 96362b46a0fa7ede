"""The homes that the fault tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..postgres import PostgresServer, postgres, postgres_server

__all__ = ["postgres"]


@pytest.fixture(params=["sqlite", "postgres"])
def fault_home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `agl store` serves."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def mortal_postgres() -> Iterator[PostgresServer]:
    """A database server of its own, for a test that kills it."""
    with postgres_server() as server:
        yield server
