"""Tells the store that a worker, and each attempt that it works on, is alive; learns which attempts no longer count.

In a thread with an event loop of its own by default, because an async agent that blocks the runner's loop is slow, not
gone: whether it takes too long is for `timeout_seconds` to say. Called by `agent_runner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout, LeaseLostError, StoreClosedError, StoreUnavailableError
from agentlightning.utils.system_snapshot import system_snapshot

logger = logging.getLogger(__name__)

LaunchMode = Literal["thread", "asyncio"]


class Leased(Protocol):
    """An attempt under way."""

    rollout: AttemptedRollout

    def lose(self, error: Exception) -> None:
        """The attempt no longer counts, or its result has nowhere to go: stop it. Called from any thread."""
        ...


@dataclass(frozen=True)
class Heartbeat:
    """The heartbeat of one worker.

    Args:
        store: Where to.
        worker_id: Whose.
        underway: The attempts that the worker works on, by attempt id; changes meanwhile.
        interval: Seconds between two beats.
        jitter: Up to so many seconds more or less, so that many workers don't beat at once; at most half of
            `interval` is used.
        include_gpu: Whether the figures hold those of the GPUs.
    """

    store: LightningStore
    worker_id: str
    underway: Mapping[str, Leased]
    interval: float
    jitter: float = 0.0
    include_gpu: bool = False

    @contextlib.asynccontextmanager
    async def beating(self, mode: LaunchMode = "thread") -> AsyncGenerator[None, None]:
        """Beat now and every `interval` seconds, as long as the context lasts."""
        stop = _in_thread(self._beat) if mode == "thread" else _in_task(self._beat)
        try:
            yield
        finally:
            await stop()

    async def _beat(self) -> None:
        while True:
            try:
                await self._tell_worker()
                for lease in list(self.underway.values()):
                    await self._tell_attempt(lease)
            except StoreClosedError as error:
                for lease in list(self.underway.values()):
                    lease.lose(error)  # nobody will take its result
                return
            except StoreUnavailableError as error:
                logger.warning("a heartbeat of %s did not arrive: %s", self.worker_id, error)
            except Exception:
                logger.exception("a heartbeat of %s failed; the next is due in %g s", self.worker_id, self.interval)
            spread = min(self.jitter, self.interval / 2)
            await asyncio.sleep(self.interval + random.uniform(-spread, spread))

    async def _tell_worker(self) -> None:
        figures: dict[str, Any] = {**system_snapshot(self.include_gpu), "underway": len(self.underway)}
        await self.store.update_worker(self.worker_id, figures)

    async def _tell_attempt(self, lease: Leased) -> None:
        attempt = lease.rollout.attempt
        if attempt.attempt_id not in self.underway:
            return  # it ended while another one was written
        try:
            # Without any change it is a heartbeat, by the store's own clock: those of machines differ.
            await self.store.update_attempt(attempt.rollout_id, attempt.attempt_id)
        except LeaseLostError as error:
            lease.lose(error)


def _in_task(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Awaitable[None]]:
    task = asyncio.create_task(work())

    async def stop() -> None:
        task.cancel()
        await asyncio.wait({task})

    return stop


def _in_thread(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Awaitable[None]]:
    """Start `work` on an event loop in a daemon thread; the result cancels it and waits for the thread to end."""
    here = asyncio.get_running_loop()
    ended: asyncio.Future[None] = here.create_future()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())

    def run() -> None:
        try:
            loop.run_until_complete(asyncio.wait({task}))
            loop.run_until_complete(loop.shutdown_asyncgens())  # where a store's client closes its connections
        finally:
            loop.close()
            with contextlib.suppress(RuntimeError):  # the runner's loop is closed: it did not wait for this thread
                here.call_soon_threadsafe(_resolve, ended)

    thread = threading.Thread(target=run, name="agl-heartbeat", daemon=True)
    thread.start()

    async def stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the store was, and the heart stopped by itself
            loop.call_soon_threadsafe(task.cancel)
        await ended
        thread.join()  # it is past its last statement

    return stop


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
