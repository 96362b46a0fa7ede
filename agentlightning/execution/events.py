"""The stop signal that a strategy shares with the algorithm and the runners."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Protocol


class ExecutionEvent(Protocol):
    """Set once by whoever ends a run; any thread may set it and ask."""

    def set(self) -> None:
        """Ask everybody to stop."""
        ...

    def clear(self) -> None:
        """Take it back."""
        ...

    def is_set(self) -> bool:
        """Whether everybody shall stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is set, or for `timeout` seconds; whether it is set."""
        ...

    async def wait_async(self) -> None:
        """Suspend this task until it is set."""
        ...


class ThreadingEvent:
    """An `ExecutionEvent` for the threads and event loops of one process. Nobody polls."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        """Ask everybody to stop."""
        with self._lock:
            self._event.set()
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed, so nobody waits there any more
                future.get_loop().call_soon_threadsafe(_wake, future)

    def clear(self) -> None:
        """Take it back."""
        self._event.clear()

    def is_set(self) -> bool:
        """Whether everybody shall stop."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is set, or for `timeout` seconds; whether it is set."""
        return self._event.wait(timeout)

    async def wait_async(self) -> None:
        """Suspend this task until it is set."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._event.is_set():
                return
            self._waiting.add(future)
        try:
            await future
        finally:
            with self._lock:
                self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
