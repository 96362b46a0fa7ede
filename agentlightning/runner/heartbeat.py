"""Tells the store that a worker, and each attempt that it works on, is alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping

from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def heartbeats(
    store: LightningStore, worker_id: str, underway: Mapping[str, AttemptedRollout], interval: float
) -> AsyncGenerator[None, None]:
    """Send a heartbeat now and every `interval` seconds, as long as the context lasts.

    Args:
        store: Where to.
        worker_id: Whose.
        underway: The attempts that the worker works on, by attempt id; may change meanwhile.
        interval: Seconds.
    """
    beating = asyncio.create_task(_beat(store, worker_id, underway, interval))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait({beating})


async def _beat(
    store: LightningStore, worker_id: str, underway: Mapping[str, AttemptedRollout], interval: float
) -> None:
    while True:
        try:
            await store.update_worker(worker_id, {"underway": len(underway)})
            for attempt_id, rollout in list(underway.items()):
                if attempt_id in underway:  # it may have ended while another one was written
                    await store.update_attempt(rollout.rollout_id, attempt_id, last_heartbeat_time=time.time())
        except Exception:
            logger.exception("a heartbeat of %s failed; the next one is due in %g s", worker_id, interval)
        await asyncio.sleep(interval)
