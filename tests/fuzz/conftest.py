"""One gateway for all fuzzing in a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .world import World, running


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with running() as made:
        yield made
