"""Small tools to wait for tasks and for the stop signal without losing a result or an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from agentlightning.execution.events import ExecutionEvent, wait_for_event

R = TypeVar("R")


@contextlib.asynccontextmanager
async def stopping(event: ExecutionEvent | None) -> AsyncGenerator[asyncio.Future[Any], None]:
    """A future that is done once `event` is set; never if there is none."""
    waiting: Coroutine[Any, Any, Any] = wait_for_event(event) if event is not None else asyncio.Event().wait()
    stop = asyncio.create_task(waiting)
    await asyncio.sleep(0)  # an event that is set already counts from the start
    try:
        yield stop
    finally:
        stop.cancel()
        await asyncio.wait({stop})


async def cancelled(task: asyncio.Future[R]) -> R | None:
    """Cancel `task` unless it is done; its result, or `None` if it was cancelled."""
    if not task.done():  # else at once: to be cancelled here would lose the result
        task.cancel()
        await asyncio.wait({task})
    return None if task.cancelled() else task.result()
