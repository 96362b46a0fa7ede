"""The writer's thread and callers who go away. What it commits, and when, is tested with its stores."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agentlightning.store import SqlLightningStore
from agentlightning.store.ledger import Ledger

from .helpers import Hold


def nothing(ledger: Ledger) -> None:
    """An operation."""


async def test_a_caller_that_is_cancelled_while_the_store_closes_hears_of_the_cancellation(sqlite: SqlLightningStore):
    writer = sqlite._writer  # pyright: ignore[reportPrivateUsage]
    hold = Hold()
    asked = asyncio.create_task(writer.run(hold, lambda taken: nothing))
    await asyncio.to_thread(hold.started.wait)
    hold.release.set()
    later = threading.Thread(target=lambda: asyncio.run(writer.run(nothing)))
    later.start()
    later.join()  # this loop stands still meanwhile: `asked` is answered, and does not know it yet
    closing = asyncio.create_task(writer.close())
    asyncio.get_running_loop().call_soon(asked.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asked
    await closing
