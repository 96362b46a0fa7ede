"""`Watchdog`: a thread that looks after a store in the background, also when nobody calls it.

`home.LedgerStore` starts and closes it; what a look does is the home's (`LedgerStore.scan`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable
from typing import Protocol

from agentlightning.types import StoreClosedError, StoreError

logger = logging.getLogger(__name__)


class Scanned(Protocol):
    """What a watchdog looks after."""

    def scan(self) -> Awaitable[None]:
        """One look."""
        ...


class Watchdog:
    """Calls `store.scan()` again and again, from `start` to `close` or until the store is garbage.

    Args:
        store: Only weakly referred to, so that nobody has to close a store that is no longer used.
        interval: Seconds between the end of one look and the next.

    Raises:
        ValueError: `interval` is not positive.
    """

    def __init__(self, store: Scanned, interval: float) -> None:
        if not interval > 0:
            raise ValueError(f"`scan_interval` is {interval}; give the seconds between two scans (more than 0)")
        self.interval = interval
        self._stop = threading.Event()
        self._store = weakref.ref(store, lambda _: self._stop.set())
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun or was closed. Thread-safe."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._stop.is_set():
                    self._thread = threading.Thread(target=self._work, name="agl-store-watchdog", daemon=True)
                    self._thread.start()

    async def close(self) -> None:
        """End, after the look that is under way."""
        with self._lock:
            self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        with asyncio.Runner() as runner:
            while not self._stop.wait(self.interval):
                try:
                    runner.run(self._look())
                except StoreClosedError:
                    return
                except StoreError as error:
                    logger.warning("a scan of the store failed, the next one is in %s s: %s", self.interval, error)
                except Exception:
                    logger.exception("a scan of the store failed, the next one is in %s s", self.interval)

    async def _look(self) -> None:
        store = self._store()
        if store is not None:
            await store.scan()
