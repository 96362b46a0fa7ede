"""Agents: so many calls at once, or so many arrivals a second, at one URL after the other. Used by `compare`."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence

import aiohttp
import psutil
import uvloop

AT_ONCE = 32
PATIENCE = 120.0
"""Seconds until a call is given up. It then counts with this time, so a server that can't keep up looks better than it
is."""
CALLS_AN_ATTEMPT = 20
"""Calls one after the other before the next attempt's URL is taken."""

Call = Callable[[], "asyncio.Future[None]"]


class Agents:
    """Callers of one server.

    Args:
        urls: Base URLs, one an attempt; used again when all were.
        body: What every call sends.
        key: API key.
    """

    def __init__(self, urls: Sequence[str], body: bytes, key: str) -> None:
        self._urls = itertools.cycle(urls)
        self._body = body
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        self.seconds: list[float] = []
        """How long every call took."""

    def at_once(self, calls: int) -> None:
        """So many calls, `AT_ONCE` under way."""
        uvloop.run(self._at_once(calls))

    def arriving(self, calls: int, rate: float) -> None:
        """So many calls, `rate` a second, at random moments, however long the earlier ones take."""
        uvloop.run(self._arriving(calls, rate))

    async def _at_once(self, calls: int) -> None:
        left = iter(range(calls))
        async with self._session() as session:

            async def agent() -> None:
                url = ""
                for made in itertools.count():
                    if next(left, None) is None:
                        return
                    url = url if made % CALLS_AN_ATTEMPT else next(self._urls)
                    await self._call(session, url)

            await asyncio.gather(*(agent() for _ in range(AT_ONCE)))

    async def _arriving(self, calls: int, rate: float) -> None:
        rng = random.Random(1)
        clock = asyncio.get_running_loop().time
        due = clock()
        async with self._session() as session, asyncio.TaskGroup() as group:
            for _ in range(calls):
                due += rng.expovariate(rate)
                await asyncio.sleep(max(0.0, due - clock()))
                group.create_task(self._call(session, next(self._urls)))

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        )

    async def _call(self, session: aiohttp.ClientSession, url: str) -> None:
        begin = time.perf_counter()
        try:
            async with session.post(f"{url}/chat/completions", data=self._body) as answer:
                data = await answer.read()
        except TimeoutError:
            self.seconds.append(PATIENCE)
            return
        self.seconds.append(time.perf_counter() - begin)
        if answer.status != 200 or not (data.endswith(b"}") or data.rstrip().endswith(b"[DONE]")):
            raise RuntimeError(f"{url} answered {answer.status}: {data[-500:]!r}")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far."""
    leader = psutil.Process(pid)
    times = [process.cpu_times() for process in (leader, *leader.children(recursive=True))]
    return sum(time.user + time.system for time in times)
