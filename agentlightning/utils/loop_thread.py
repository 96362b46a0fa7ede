"""`LoopThread`: an event loop in a thread of its own, for blocking code that has coroutines to run.

It does not matter whether the caller's thread runs an event loop as well. Used by `verl.stepped`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs from the start until `stop`.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=name, daemon=True)
        self._thread.start()
        self._loop, self._end = self._ready.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs in the thread; the caller's thread waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """Cancel what still runs, and end."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self) -> None:
        end = asyncio.Event()
        self._ready.set_result((asyncio.get_running_loop(), end))
        await end.wait()
