"""HTTP to one endpoint: connections, timeouts, streams, and every failure as a `RequestError`.

Used by the backends of this folder. aiohttp costs a fraction of httpx's CPU time a request.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Generator
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import aiohttp
import orjson

from agentlightning.types import RequestError

from ..backend import Json
from .sse import EventParser, UpstreamError

MAX_CONNECTIONS = 1000
"""Connections to one endpoint; further calls wait for a free one."""
MAX_ANSWER_BYTES = 100 * 1024 * 1024
"""Longest answer, streamed or not."""
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
"""Longest silence between two events of a stream. A server that is paused for new weights is silent."""
_KEEP_ALIVE_SECONDS = 4.0  # shorter than the 5 s after which uvicorn, and so vLLM, closes an idle connection
_DRAIN_SECONDS = 0.1

__all__ = ["Upstream", "UpstreamError"]


class Upstream:
    """One endpoint. Lives in one event loop at a time; `close` it before using it in another one.

    Args:
        base_url: What paths are put behind, usually ending in `/v1`. A user name and password in it are sent as a
            header, unless `headers` has an `authorization`, and never shown.
        headers: Sent with every request.
        timeout: Longest time of a call in seconds; of a stream: to its first event.
        idle_timeout: Longest time in seconds between two events of a stream.
    """

    def __init__(
        self,
        base_url: str,
        headers: dict[str, str],
        *,
        timeout: float = 600.0,
        idle_timeout: float = IDLE_SECONDS,
    ) -> None:
        self.base_url, authorization = _without_password(base_url.rstrip("/"))
        sent = {"content-type": "application/json", "accept-encoding": "identity"}
        self._headers = {**sent, **authorization, **headers}
        self._timeout = timeout
        self._idle = idle_timeout
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: Json) -> bytes:
        """Send a request, and give the body of its answer.

        Raises:
            UpstreamError: the answer is not 200.
            RequestError: 400 if the request can't be written as JSON, 502 if the endpoint can't be reached or answers
                too much, 504 if it is too slow.
        """
        with self._mapped():
            async with asyncio.timeout(self._timeout), self._request(path, body) as answer:
                data = await self._read(answer)
                if answer.status != 200:
                    raise self._refusal(answer, data)
                return data

    async def events(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        """Send a request and give the server-sent events of its answer, each a JSON object, as they arrive.

        `[DONE]` ends the stream. Closing the generator early closes the connection, which ends the request.

        Raises:
            UpstreamError: before the first event, an answer that is not 200; later, an error object in the stream.
            RequestError: 502 if the endpoint can't be reached, or its stream is malformed or ends early; 504 if it is
                too slow.
        """
        parser = EventParser(self.base_url)
        deadline = _now() + self._timeout
        size = 0
        with self._mapped():
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout_at(deadline):
                    answer = await stack.enter_async_context(self._request(path, body))
                    await self._check_stream(answer)
                while not parser.done:
                    async with asyncio.timeout_at(deadline):
                        data = await answer.content.readany()
                    size = self._bounded(size + len(data))
                    for event in parser.feed(data) if data else parser.end():
                        yield event
                        deadline = _now() + self._idle
                    if not data:
                        return
                await _drain(answer)

    async def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def read_object(self, data: bytes) -> Json:
        """The JSON object that an answer is.

        Raises:
            RequestError: 502, it is none.
        """
        try:
            value: Any = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the backend at {self.base_url} sent invalid JSON: {error}", status=502) from error
        if not isinstance(value, dict):
            raise RequestError(f"the backend at {self.base_url} sent no JSON object: {data[:200]!r}", status=502)
        return cast("Json", value)

    def _request(self, path: str, body: Json) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),  # an endpoint's cookies are nobody's, and not all agents'
            )
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # parsed, but nested more deeply than can be written
            raise RequestError(f"the request can't be written as JSON: {error}") from error
        return self._session.post(self.base_url + path, data=data, allow_redirects=False)

    def _refusal(self, answer: aiohttp.ClientResponse, data: bytes) -> UpstreamError:
        """An answer other than 200, as the error to raise."""
        try:
            body: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            body = None
        status = answer.status
        text = f"the backend at {self.base_url} answered {status}: {data.decode(errors='replace')[:500]}"
        if status < 400:  # a redirect, or an empty success: nothing that an agent could make use of
            return UpstreamError(text, 502, None)
        found = cast("dict[str, object]", body) if isinstance(body, dict) else None
        return UpstreamError(text, status, found, _retry_after(answer.headers.get("retry-after")))

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        self._bounded(answer.content_length or 0)
        pieces: list[bytes] = []
        size = 0
        async for piece in answer.content.iter_any():
            size = self._bounded(size + len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    async def _check_stream(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status != 200:
            raise self._refusal(answer, await self._read(answer))
        if answer.content_type == "application/json":
            data = await self._read(answer)
            raise RequestError(
                f"the backend at {self.base_url} answered a request for a stream with JSON: {data[:500]!r}", status=502
            )

    def _bounded(self, size: int) -> int:
        if size > MAX_ANSWER_BYTES:
            raise RequestError(
                f"the backend at {self.base_url} sent more than {MAX_ANSWER_BYTES} bytes in one answer", status=502
            )
        return size

    @contextlib.contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except TimeoutError as error:
            raise RequestError(f"the backend at {self.base_url} did not answer in time", status=504) from error
        except aiohttp.ClientPayloadError as error:
            raise RequestError(f"the backend at {self.base_url} ended its answer early: {error}", status=502) from error
        except (aiohttp.ClientError, OSError) as error:
            raise RequestError(f"the backend at {self.base_url} can't be reached: {error}", status=502) from error


def _without_password(url: str) -> tuple[str, dict[str, str]]:
    """The URL as it may be shown, and the header for what was taken out."""
    if "@" not in url:
        return url, {}
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return shown, {"authorization": f"Basic {base64.b64encode(login).decode()}"}


async def _drain(answer: aiohttp.ClientResponse) -> None:
    """Take the few bytes that end a stream, so that its connection can serve another call."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await answer.content.readany():
                pass


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; what is neither is taken for nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
