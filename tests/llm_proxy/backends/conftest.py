from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .endpoint import Endpoint, serving


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving() as started:
        yield started
