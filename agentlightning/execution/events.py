"""The stop signal that a strategy shares with the algorithm and the runners."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

POLL_S = 0.05
"""How often `wait_for_event` looks at an event that can't wake a coroutine itself."""


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


class MultiprocessingEvent:
    """An `ExecutionEvent` that processes of `multiprocessing` share, for programs that start their own.

    Args:
        ctx: The start method's context; `None`: the default one.
    """

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        import multiprocessing  # 10 ms that nothing else here needs

        self._event = (ctx or multiprocessing.get_context()).Event()

    def set(self) -> None:
        """Ask everybody to stop."""
        self._event.set()

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
        """Suspend this task until it is set; another process can't wake it, so it looks every `POLL_S`."""
        while not self._event.is_set():  # noqa: ASYNC110  # it is no event of asyncio's
            await asyncio.sleep(POLL_S)


async def wait_for_event(event: ExecutionEvent) -> None:
    """Suspend this task until `event` is set; it may lack `wait_async`, as a `threading.Event` does."""
    if hasattr(event, "wait_async"):
        await event.wait_async()
        return
    while not event.is_set():  # noqa: ASYNC110  # it is no event of asyncio's
        await asyncio.sleep(POLL_S)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
