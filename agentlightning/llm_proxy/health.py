"""Whether an endpoint answers. One that failed is asked in the background until it does; calls go elsewhere meanwhile.

Used by `pool` in the gateway's event loop. Asks `<base URL>/models` and reads nothing but the status.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

import aiohttp

from agentlightning.types import RequestError

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between two questions whether a failed endpoint is back. The time doubles with every failure."""
PROBE_TIMEOUT_S = 5.0
_TRANSIENT = (408, 429)
_NOT_IMPLEMENTED = 501
# Of its own: seeds that agents or the trainer set, and the numbers that they draw, are not touched.
_chance = random.Random()


def jitter(seconds: float) -> float:
    """A random time between half of `seconds` and all of it, so that callers don't come back all at once."""
    return seconds * (0.5 + 0.5 * _chance.random())


def is_transient(error: RequestError) -> bool:
    """Whether another endpoint, or the same one later, may serve the request: not if the request itself is at fault."""
    return error.status in _TRANSIENT or (error.status >= 500 and error.status != _NOT_IMPLEMENTED)


class Health:
    """What is known of one endpoint.

    Args:
        base_url: Where it is asked; `None`: it can't be, and counts as healthy again after a while.
    """

    def __init__(self, base_url: str | None) -> None:
        self._base_url = base_url
        self._failures = 0
        self._rests_until = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> int:
        """0: healthy; 1: it failed; 2: it asked to be left alone for a time. Calls go to the lowest there is."""
        if time.monotonic() < self._rests_until:
            return 2
        return 0 if self._task is None else 1

    def answered(self) -> None:
        """A call was served."""
        self._failures = 0
        self._stop()

    def failed(self, error: RequestError) -> None:
        """A call failed for a transient reason. A busy endpoint (429) is left alone for the time that it names."""
        busy = error.status == 429
        rest_s = error.retry_after or (FIRST_PAUSE_S if busy else 0.0)
        self._rests_until = time.monotonic() + min(rest_s, LONGEST_PAUSE_S)
        if not busy and self._task is None:
            self._task = asyncio.create_task(self._watch())
            self._task.add_done_callback(self._ended)

    def close(self) -> None:
        """Stop asking, and forget what was wrong."""
        self._rests_until = 0.0
        self.answered()

    def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _watch(self) -> None:
        back = False
        while not back:
            pause = min(FIRST_PAUSE_S * 2.0**self._failures, LONGEST_PAUSE_S)
            self._failures = min(self._failures + 1, 16)
            await asyncio.sleep(jitter(pause))
            back = self._base_url is None or await _answers(self._base_url)
        logger.info("the endpoint at %s is tried again", self._base_url)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the health check of %s failed", self._base_url, exc_info=error)


async def _answers(base_url: str) -> bool:
    """Whether a server is there that works: it may refuse the question, as for a missing key, but not fail at it."""
    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base_url}/models", allow_redirects=False) as answer,
        ):
            return answer.status < 500
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
