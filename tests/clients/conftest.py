"""For the client tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .model import build


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that all clients train."""
    return build(tmp_path_factory.mktemp("client-model"))
