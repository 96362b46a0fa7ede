"""The gate that calls pass right before they go to a backend: closed for weight updates, and it counts who is inside.

Used by `pool` in the gateway's event loop. `routes` hands `pause`, `resume` and `drain` to other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from concurrent.futures import Future


class Gate:
    """Lets calls in, by model name, unless the model or everything is paused. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all_paused = False
        self._paused: set[str] = set()
        self._inside: Counter[str] = Counter()
        # In order of arrival. Taken out by whoever waits.
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._draining: dict[Future[None], str | None] = {}

    @property
    def paused(self) -> bool:
        """Whether all models are paused."""
        return self._all_paused

    def is_paused(self, model: str) -> bool:
        """Whether calls of `model` wait."""
        return self._all_paused or model in self._paused

    def inside(self, model: str | None = None) -> int:
        """How many calls are at a backend now; `None`: of all models."""
        with self._lock:
            return self._count(model)

    def pause(self, model: str | None = None) -> None:
        """Let nobody in from now on; `None`: of no model. Who is inside goes on."""
        with self._lock:
            if model is None:
                self._all_paused = True
            else:
                self._paused.add(model)

    def resume(self, model: str | None = None) -> None:
        """Undo `pause` with the same `model`, and let in who waits."""
        with self._lock:
            if model is None:
                self._all_paused = False
            else:
                self._paused.discard(model)
            free = [future for future, wanted in self._waiting.items() if not self.is_paused(wanted)]
        for future in free:
            with contextlib.suppress(RuntimeError):  # that gateway's loop has ended, and its callers with it
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def opened(self, model: str) -> None:
        """Return when calls of `model` are let in."""
        while self.is_paused(model):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._lock:
                if not self.is_paused(model):
                    return
                self._waiting[future] = model
            try:
                await future
            finally:
                with self._lock:
                    del self._waiting[future]

    def enter(self, model: str) -> bool:
        """Go in; `False`: paused."""
        with self._lock:
            if self.is_paused(model):
                return False
            self._inside[model] += 1
            return True

    def leave(self, model: str) -> None:
        """Go out again."""
        with self._lock:
            self._inside[model] -= 1
            if not self._inside[model]:
                del self._inside[model]
            empty = [future for future, wanted in self._draining.items() if not self._count(wanted)]
            for future in empty:
                del self._draining[future]
        for future in empty:
            future.set_result(None)

    async def drained(self, model: str | None = None) -> None:
        """Return when nobody is inside. In any event loop."""
        future: Future[None] = Future()
        with self._lock:
            if not self._count(model):
                return
            self._draining[future] = model
        try:
            # Shielded: a waiter that gives up must not cancel what another thread is about to set.
            await asyncio.shield(asyncio.wrap_future(future))
        finally:
            with self._lock:
                self._draining.pop(future, None)

    def _count(self, model: str | None) -> int:
        return self._inside.total() if model is None else self._inside[model]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
