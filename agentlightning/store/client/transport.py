"""Sends requests and repeats them until they are answered. Used by `client`.

One `HttpClient` for each event loop, closed together with it. A request keeps its idempotency key when repeated, so
that the server does once what was asked once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from agentlightning.types import StoreClosedError, StoreUnavailableError

from .batching import Batcher, Reply, Request
from .errors import raise_refusal, refusal
from .http import HttpClient

logger = logging.getLogger(__name__)

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transport:
    """Requests to one server. Any thread, any number of event loops.

    Args:
        root: `http://host:port`.
        token: Shown as a bearer token.
        retry_delays: Seconds to sleep before each repetition.
        request_timeout: Longest time of one HTTP request, in seconds.
        connection_timeout: Longest time to connect, in seconds.
    """

    def __init__(
        self,
        root: str,
        *,
        token: str | None,
        retry_delays: Sequence[float],
        request_timeout: float,
        connection_timeout: float,
    ) -> None:
        self.root = root
        self._delays = tuple(retry_delays)
        self._timeouts = {"timeout": request_timeout, "connection_timeout": connection_timeout}
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}
        self._closed = False

    async def ask(self, request: Request) -> bytes:
        """The body of the answer.

        Raises:
            StoreUnavailableError: no answer, however often it was tried.
            Exception: what the home raised, see `errors`.
        """
        reply = await self.try_ask(request)
        if reply.status >= 400:
            raise_refusal(f"{request.method} {self.root}{request.path}", *reply)
        return reply.body

    async def try_ask(self, request: Request) -> Reply:
        """The answer, whatever its status; repeated while that may help."""
        failure = ""
        for delay in (0.0, *self._delays):
            if delay:
                logger.info("trying %s %s again in %g s: %s", request.method, request.path, delay, failure)
                await asyncio.sleep(delay)
            if self._closed:
                raise StoreClosedError("the store is closed on this side; make a new client")
            try:
                reply = await (await self._session()).batcher.send(request)
            except (OSError, TimeoutError) as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if not _may_help(reply):
                return reply
            failure = f"{reply.status}: {reply.body[:200].decode(errors='replace')}"
        raise StoreUnavailableError(
            f"the store at {self.root} did not answer {request.method} {request.path} in {len(self._delays) + 1} "
            f"tries; is it running? The last said: {failure}"
        )

    async def _send(self, request: Request) -> Reply:
        """One HTTP request. Raises what `HttpClient` raises."""
        http = (await self._session()).http
        return await http.request(request.method, request.path, request.body, request.key)

    async def close(self) -> None:
        """Close the connections of this event loop; those of others end with their loops."""
        self._closed = True
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            session.http.close()

    async def _session(self) -> _Session:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for ended in [other for other in list(self._sessions) if other.is_closed()]:
                self._sessions.pop(ended, None)
            http = HttpClient(self.root, self._headers, **self._timeouts)
            session = self._sessions[loop] = _Session(http, self._send)
            await session.keep()
        return session


class _Session:
    """Connections that are closed with their event loop.

    A loop that ends (`asyncio.run`) closes its open asynchronous generators: that is the only moment at which what
    nobody closed can still be closed well.
    """

    def __init__(self, http: HttpClient, send: Callable[[Request], Awaitable[Reply]]) -> None:
        self.batcher = Batcher(send)
        self.http = http
        self._keeper = self._open_until_the_end()

    async def keep(self) -> None:
        await anext(self._keeper)

    async def _open_until_the_end(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self.http.close()


def _may_help(reply: Reply) -> bool:
    """Whether asking again may get a better answer. A 500 of our server is final: it says what failed."""
    if reply.status not in RETRIED:
        return False
    return reply.status != 500 or refusal(reply.body) is None
