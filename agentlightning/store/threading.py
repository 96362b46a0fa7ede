"""`LightningStoreThreaded`: lets several threads use a store that is not made for it.

For stores of a user's own. The homes of this package are thread-safe, so that for them the facade only passes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from agentlightning.types import AttemptedRollout, Rollout, StoreClosedError

from .base import LightningStore, LightningStoreCapabilities
from .replies import keyed, request_key

T = TypeVar("T")

CLOSED: Final = "the store is closed; open a new one"
LOOK_SECONDS: Final = 0.05
"""Between two looks at a store that may not be used while a wait in it is under way."""


class LightningStoreThreaded(LightningStore):
    """A store that any thread and event loop may use.

    A store that says `thread_safe` is called directly. Any other is used by one thread of the facade's own, in one
    event loop; if it doesn't say `async_safe` either, by one call at a time, and waits become repeated looks.

    Args:
        store: The store to share. Nobody may use it without the facade.
    """

    def __init__(self, store: LightningStore) -> None:
        self.store = store
        self._direct = bool(store.capabilities.get("thread_safe"))
        self._may_wait = self._direct or bool(store.capabilities.get("async_safe"))
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._turn: asyncio.Lock | None = None
        self._closed = False

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {**self.store.capabilities, "thread_safe": True, "async_safe": True}

    def otlp_traces_endpoint(self) -> str:
        return self.store.otlp_traces_endpoint()

    async def dequeue_rollout(self, worker_id: str | None = None, timeout: float = 0.0) -> AttemptedRollout | None:
        if timeout == 0:  # upstream's interface has no timeout
            return await self._call(self.store.dequeue_rollout, worker_id)
        if self._may_wait:
            return await self._call(self.store.dequeue_rollout, worker_id, timeout)

        async def look() -> tuple[AttemptedRollout | None, bool]:
            taken = await self._call(self.store.dequeue_rollout, worker_id)
            return taken, taken is not None

        return await _repeat(look, timeout)

    async def dequeue_many_rollouts(
        self, limit: int = 1, worker_id: str | None = None, timeout: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        if timeout == 0:
            return await self._call(self.store.dequeue_many_rollouts, limit, worker_id)
        if self._may_wait:
            return await self._call(self.store.dequeue_many_rollouts, limit, worker_id, timeout)

        async def look() -> tuple[Sequence[AttemptedRollout], bool]:
            taken = await self._call(self.store.dequeue_many_rollouts, limit, worker_id)
            return taken, bool(taken)

        return await _repeat(look, timeout)

    async def wait_for_rollouts(self, *, rollout_ids: Sequence[str], timeout: float | None = None) -> list[Rollout]:
        if self._may_wait or timeout == 0:
            return await self._call(self.store.wait_for_rollouts, rollout_ids=rollout_ids, timeout=timeout)
        known = [each for each in dict.fromkeys(rollout_ids) if await self.get_rollout_by_id(each) is not None]

        async def look() -> tuple[list[Rollout], bool]:
            found = await self._call(self.store.wait_for_rollouts, rollout_ids=known, timeout=0.0)
            return found, len(found) == len(known)

        return await _repeat(look, timeout)

    async def close(self) -> None:
        if self._direct:
            await self.store.close()
            return
        with self._lock:
            closing = None if self._closed else self._submit(self.store.close)
            self._closed = True
        if closing is not None:
            await asyncio.wrap_future(closing)
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # another `close` was faster
                self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join)

    async def _call(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        if self._direct:
            return await method(*args, **kwargs)
        with self._lock:
            if self._closed:
                raise StoreClosedError(CLOSED)
            future = self._submit(method, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self._closed and future.cancelled():
                raise StoreClosedError(CLOSED) from None
            raise

    def _submit(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> Future[T]:
        """Begin a call in the facade's thread."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="agl-store-threaded", daemon=True)
            self._thread.start()
        work = self._work(request_key.get(), method, *args, **kwargs)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _work(
        self, key: str | None, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
    ) -> T:
        """Runs in the facade's thread."""
        with keyed(key):
            if self._may_wait:
                return await method(*args, **kwargs)
            self._turn = self._turn or asyncio.Lock()
            async with self._turn:
                return await method(*args, **kwargs)


async def _repeat(look: Callable[[], Awaitable[tuple[T, bool]]], seconds: float | None) -> T:
    """Look until what is found is enough, or for `seconds`; what was found last."""
    clock = asyncio.get_running_loop().time
    deadline = None if seconds is None else clock() + seconds
    while True:
        found, enough = await look()
        if enough or (deadline is not None and clock() >= deadline):
            return found
        await asyncio.sleep(LOOK_SECONDS)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """The facade's thread. Whoever still waits in the store when it is closed is cancelled."""
    loop.run_forever()
    waiting = asyncio.all_tasks(loop)
    for task in waiting:
        task.cancel()
    if waiting:
        loop.run_until_complete(asyncio.wait(waiting))
    loop.close()


def _pass_on(name: str) -> Any:
    @functools.wraps(getattr(LightningStore, name))
    async def call(self: LightningStoreThreaded, *args: Any, **kwargs: Any) -> Any:
        return await self._call(getattr(self.store, name), *args, **kwargs)  # pyright: ignore[reportPrivateUsage]

    return call


# Every coroutine method of the interface, so that none is forgotten when the interface grows.
for _name, _method in vars(LightningStore).items():
    if inspect.iscoroutinefunction(_method) and _name not in vars(LightningStoreThreaded):
        setattr(LightningStoreThreaded, _name, _pass_on(_name))
