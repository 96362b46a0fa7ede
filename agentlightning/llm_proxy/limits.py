"""How many calls run at once and how many begin within a minute. Further ones wait in order of arrival.

Used by `pool`: one `Limiter` for each endpoint, and one for the whole gateway. Lives in the gateway's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from dataclasses import dataclass

from agentlightning.types import ConfigError, RequestError

MAX_PARALLEL_REQUESTS = 1000
"""Calls at backends at once, over all models."""
MAX_WAITING = 16_384
"""Callers that wait at one limit. Each holds a connection and its request."""
QUEUE_TIMEOUT_S = 300.0
"""Half of the time that OpenAI's and Anthropic's clients wait for an answer."""
_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a `Limiter` holds callers to.

    Args:
        max_parallel_requests: Calls that run at once; `None`: any number.
        rpm: Calls that begin within any 60 s; `None`: any number.

    Raises:
        ConfigError: a limit below 1, which would let nobody through.
    """

    max_parallel_requests: int | None = None
    rpm: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_parallel_requests", self.max_parallel_requests), ("rpm", self.rpm)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"`{name}` must be a whole number from 1 up, or left out for no limit, not {value!r}")


class QueueError(RequestError):
    """Too many callers wait already, or this one has waited for too long."""


class Limiter:
    """Lets callers through within `limits`.

    Args:
        name: What is limited, for messages.
        limits: What callers are held to.
        max_waiting: Callers that may wait; further ones are refused.
        queue_timeout: Longest time in seconds that one waits.
    """

    def __init__(
        self, name: str, limits: Limits, *, max_waiting: int = MAX_WAITING, queue_timeout: float = QUEUE_TIMEOUT_S
    ) -> None:
        self._limits = limits
        self._name = name
        self._max_waiting = max_waiting
        self._queue_timeout = queue_timeout
        self._running = 0
        self._begun: deque[float] = deque()
        """When the calls of the last minute were let through; kept only where `rpm` counts them."""
        self._waiting: dict[asyncio.Future[float], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def free(self) -> bool:
        """Whether a caller would be let through at once."""
        return not self._waiting and self._wait_s() <= 0

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiting)

    def change(self, limits: Limits) -> None:
        """Hold callers to other limits, also those who wait. From any thread."""
        self._limits = limits
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # that loop has ended, and nobody waits
                loop.call_soon_threadsafe(self._admit)

    async def acquire(self) -> float:
        """Return when the caller may begin; to be followed by `release` or `give_back`.

        Returns:
            The loop's time at which it was let through.

        Raises:
            QueueError: 429, the queue is full or did not move fast enough.
        """
        if self.free:
            return self._let_through()
        if len(self._waiting) >= self._max_waiting:
            raise self._refusal(f"{len(self._waiting)} callers wait already")
        return await self._wait()

    def release(self) -> None:
        """The call has ended."""
        self._running -= 1
        self._admit()

    def give_back(self, turn: float) -> None:
        """Instead of `release`: the call has not even begun, so it does not count for `rpm`. `turn` is `acquire`'s."""
        if turn in self._begun:
            self._begun.remove(turn)
        self.release()

    async def _wait(self) -> float:
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = self._loop.create_future()
        self._waiting[future] = None
        self._admit()  # sets the timer
        try:
            async with asyncio.timeout(self._queue_timeout):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled():  # let through in the moment in which it gave up
                self.give_back(future.result())
            if isinstance(error, TimeoutError):
                raise self._refusal(f"no turn came within {self._queue_timeout:g} s") from error
            raise
        finally:
            self._waiting.pop(future, None)
            if not self._waiting:
                self._stop_timer()

    def _admit(self) -> None:
        """Let through those whose turn it is, and come back when `rpm` allows the next one."""
        self._stop_timer()
        while self._waiting:
            wait_s = self._wait_s()
            if wait_s == math.inf:  # the next `release` brings us back
                return
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._admit)
                return
            future = next(iter(self._waiting))
            del self._waiting[future]
            if not future.done():
                future.set_result(self._let_through())

    def _wait_s(self) -> float:
        """Seconds until the limits let one more through; infinite where a running call has to end first."""
        limits = self._limits
        if limits.max_parallel_requests is not None and self._running >= limits.max_parallel_requests:
            return math.inf
        if limits.rpm is None:
            self._begun.clear()
            return 0.0
        now = asyncio.get_running_loop().time()
        while self._begun and self._begun[0] + _WINDOW_S <= now:
            self._begun.popleft()
        return 0.0 if len(self._begun) < limits.rpm else self._begun[-limits.rpm] + _WINDOW_S - now

    def _let_through(self) -> float:
        self._running += 1
        now = asyncio.get_running_loop().time()
        if self._limits.rpm is not None:
            self._begun.append(now)
        return now

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refusal(self, why: str) -> QueueError:
        wait_s = self._wait_s()
        return QueueError(
            f"{self._name} is busy: {why} ({self._described()}); try again later",
            status=429,
            code="rate_limit_exceeded",
            retry_after=1.0 if wait_s == math.inf else max(wait_s, 1.0),
        )

    def _described(self) -> str:
        limits = self._limits
        named = (("max_parallel_requests", limits.max_parallel_requests), ("rpm", limits.rpm))
        return ", ".join(f"`{name}` {value}" for name, value in named if value is not None)
