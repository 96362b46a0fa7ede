"""`Waits`: wakes coroutines of any event loop when the queue grows or rollouts end. No polling.

Homes tell it what happened (`notify`); `home` waits. A wait is registered before the store is looked at, so that
nothing can happen unseen between the look and the wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from .ledger import Effects


class Wait:
    """One coroutine's wait, to be used as a context manager within its event loop."""

    def __init__(self, waits: Waits, rollout_ids: Iterable[str] | None) -> None:
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._event: asyncio.Future[None] = self._loop.create_future()
        self.rollout_ids = None if rollout_ids is None else frozenset(rollout_ids)
        """Rollouts that have to end first; `None` waits for the queue."""
        self.pending = set(self.rollout_ids or ())
        self.fired = False
        self.seen = False
        """Whether the coroutine has begun to look at the store after it was fired. It says so itself."""

    def fire(self) -> bool:
        """Wake the coroutine, from any thread; false if its loop is gone. Called under the lock of `Waits`."""
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed, so nobody waits any more
            return False
        self.fired = True
        return True

    def _wake(self) -> None:
        if not self._event.done():
            self._event.set_result(None)

    async def until(self, seconds: float | None) -> None:
        """Sleep until fired, or for `seconds` (`None`: without limit). The caller looks at the store next."""
        await asyncio.wait([self._event], timeout=seconds)

    def __enter__(self) -> Self:
        self._waits.register(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waits.unregister(self)


class Waits:
    """All the waits of one store. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._for_queue: OrderedDict[Wait, None] = OrderedDict()
        self._for_rollout: dict[str, list[Wait]] = {}

    def queue(self) -> Wait:
        """A wait for something to dequeue; the oldest wait is woken first, one for each rollout."""
        return Wait(self, None)

    def ends(self, rollout_ids: Iterable[str]) -> Wait:
        """A wait until each of the rollouts has ended or been `settled`."""
        return Wait(self, rollout_ids)

    def settled(self, wait: Wait, rollout_ids: Iterable[str]) -> None:
        """Tell a wait of rollouts that need not be waited for."""
        with self._lock:
            wait.pending.difference_update(rollout_ids)
            if not wait.pending:
                wait.fire()

    def notify(self, effects: Effects) -> None:
        """Wake those who wait for what an operation did, once it is safe in the store."""
        if not effects.queued and not effects.ended:
            return
        with self._lock:
            self._wake_queue(effects.queued)
            for rollout_id in effects.ended:
                for wait in self._for_rollout.get(rollout_id, ()):
                    wait.pending.discard(rollout_id)
                    if not wait.pending:
                        wait.fire()

    def wake_all(self) -> None:
        """Wake everybody, because the store closes."""
        with self._lock:
            self._wake_queue(len(self._for_queue))
            for wait in {wait for waits in self._for_rollout.values() for wait in waits}:
                wait.fire()

    def is_awaited(self, rollout_id: str) -> bool:
        """Whether somebody waits for the rollout, ended or not, among others."""
        with self._lock:
            return rollout_id in self._for_rollout

    def awaited(self) -> set[str]:
        """All rollouts that somebody waits for."""
        with self._lock:
            return set(self._for_rollout)

    def register(self, wait: Wait) -> None:
        with self._lock:
            if wait.rollout_ids is None:
                self._for_queue[wait] = None
            for rollout_id in wait.rollout_ids or ():
                self._for_rollout.setdefault(rollout_id, []).append(wait)

    def unregister(self, wait: Wait) -> None:
        with self._lock:
            self._for_queue.pop(wait, None)
            if wait.rollout_ids is None and wait.fired and not wait.seen:
                self._wake_queue(1)  # cancelled, or served without it: somebody else has to look
            for rollout_id in wait.rollout_ids or ():
                waits = self._for_rollout[rollout_id]
                waits.remove(wait)
                if not waits:
                    del self._for_rollout[rollout_id]

    def _wake_queue(self, count: int) -> None:
        while count > 0 and self._for_queue:
            wait, _ = self._for_queue.popitem(last=False)
            count -= wait.fire()
