"""HTTP/1.1 for an ASGI application that answers in one piece. `server_thread` gives it to uvicorn; the store uses it.

Measured on a busy machine: moving a small request costs the server 55 us of CPU, through uvicorn's own protocol 80.
That one also streams answers, logs them and checks each header of the application. httptools parses; uvicorn listens
and stops.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections import deque
from functools import cache
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 1024 * 1024
"""Bytes of a body that may wait for the application before no more is read."""


class HttpProtocol(asyncio.Protocol):
    """One connection. Requests are answered one after the other, in their order.

    The arguments are those that uvicorn gives. The parser's callbacks have the names that httptools asks for.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self._app: Any = config.loaded_app
        self._state = server_state
        self._idle_seconds = config.timeout_keep_alive
        self._parser = httptools.HttpRequestParser(self)
        self._asked: deque[_Exchange] = deque()
        """Requests without an answer; the first is with the application."""
        self._writable = True

    # -- asyncio calls these ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._state.connections.add(cast(Any, self))
        peer, here = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        self._ends = {"client": _address(peer), "server": _address(here)}
        self._used_at = self.loop.time()
        self._timer = self.loop.call_later(self._idle_seconds, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            logger.warning("a client asks for another protocol than HTTP/1.1, which it does not get")
        except httptools.HttpParserError as error:
            self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(cast(Any, self))
        self._timer.cancel()
        for exchange in self._asked:
            exchange.end()
        self._asked.clear()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._begin()

    def shutdown(self) -> None:
        """uvicorn calls this: end when all that was asked is answered."""
        if not self._asked:
            self.transport.close()
        for exchange in self._asked:
            exchange.keep_alive = False

    # -- httptools calls these --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, url = self._parser, httptools.parse_url(self._url)
        version, path = parser.get_http_version(), url.path.decode("ascii")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": self._headers,
            **self._ends,
        }
        self._reading = exchange = _Exchange(self, scope, version == "1.1" and parser.should_keep_alive())
        self._asked.append(exchange)
        if len(self._asked) == 1:
            self._begin()
        else:
            self.transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._reading.take(body)

    def on_message_complete(self) -> None:
        self._reading.take(None)

    # -- the exchanges ----------------------------------------------------------------------------------------------

    def answered(self, keep_alive: bool) -> None:
        """The first exchange has its answer."""
        self._asked.popleft()
        self._used_at = self.loop.time()
        self._state.total_requests += 1
        if not keep_alive:
            self.transport.close()
            return
        if len(self._asked) < 2:
            self.read_on()  # also where the rest of a body is yet to come, which is dropped
        self._begin()

    def read_on(self) -> None:
        """Take more from the client."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _begin(self) -> None:
        """Give the application the request that is its turn; not while the client does not read its answers."""
        if self._asked and self._writable and not self._asked[0].begun:
            self._asked[0].begun = True
            task = self.loop.create_task(self._serve(self._asked[0]))
            self._state.tasks.add(task)
            task.add_done_callback(self._state.tasks.discard)

    async def _serve(self, exchange: _Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
            if not exchange.over:
                raise RuntimeError("the application has given no answer")
        except BaseException as error:
            logger.error("%s %s failed", exchange.scope["method"], exchange.scope["path"], exc_info=error)
            if not exchange.over:
                exchange.answer(500, [(b"content-type", b"text/plain"), (b"content-length", b"21")], SERVER_ERROR)
            if not isinstance(error, Exception):
                raise

    def _refuse(self, error: Exception) -> None:
        """What came is no HTTP. Requests before it are answered first."""
        if self._asked:
            self.transport.pause_reading()
            self._asked[-1].keep_alive = False
            return
        text = f"this is no request in HTTP/1.1: {error}".encode()
        self.transport.write(_head(400, [(b"content-length", b"%d" % len(text))], keep_alive=False) + text)
        self.transport.close()

    def _close_if_idle(self) -> None:
        left = self._used_at + self._idle_seconds - self.loop.time()
        if left <= 0 and not self._asked:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(max(left, 1.0), self._close_if_idle)


SERVER_ERROR: Final = b"Internal Server Error"


class _Exchange:
    """One request and its answer. `receive` and `send` are what ASGI says."""

    __slots__ = (
        *("_connection", "_parts", "_size", "_start", "_told", "_waiter", "_whole"),
        *("begun", "keep_alive", "over", "scope"),
    )

    def __init__(self, connection: HttpProtocol, scope: dict[str, Any], keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.begun = False
        self.over = False
        """Answered, or the client is gone."""
        self._connection = connection
        self._parts: list[bytes] | None = []
        """Of the body, not yet with the application; `None` when it has had the last."""
        self._size = 0
        self._whole = self._told = False
        self._waiter: asyncio.Future[None] | None = None
        self._start: dict[str, Any] | None = None

    def take(self, body: bytes | None) -> None:
        """A part of the body; `None`: that was all."""
        if self.over or self._parts is None:
            return
        if body is None:
            self._whole = True
        else:
            self._parts.append(body)
            self._size += len(body)
            if self._size > HIGH_WATER:
                self._connection.transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """There will be no more of it."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> dict[str, Any]:
        while not self.over:
            if self._parts or (self._whole and self._parts is not None):
                return self._body(self._parts)
            if self._parts is not None:
                self._ask_for_body()
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    def _body(self, parts: list[bytes]) -> dict[str, Any]:
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts, self._size = None if self._whole else [], 0
        return {"type": "http.request", "body": body, "more_body": not self._whole}

    def _ask_for_body(self) -> None:
        self._connection.read_on()
        if self._hesitates():
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._told = True

    def _hesitates(self) -> bool:
        """Whether the client sends no body before it is told to."""
        headers: list[tuple[bytes, bytes]] = self.scope["headers"]
        return not self._told and any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)

    async def send(self, message: dict[str, Any]) -> None:
        if self.over:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is None or message.get("more_body"):
            raise RuntimeError("an answer is one `http.response.start` and one `http.response.body`, in one piece")
        self.answer(self._start["status"], self._start["headers"], message.get("body", b""))

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if not self._whole and self._hesitates():
            self.keep_alive = False  # its body may come or not: what follows could be anything
        head = _head(status, headers, keep_alive=self.keep_alive)
        self._connection.transport.write(head if self.scope["method"] == "HEAD" else head + body)
        self.over = True
        self._wake()
        self._connection.answered(self.keep_alive)


def _head(status: int, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    lines = [_status_line(status), *(b"%b: %b\r\n" % header for header in headers)]
    lines.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
    return b"".join(lines)


@cache
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode()


def _address(given: Any) -> tuple[str, int] | None:
    return (str(given[0]), int(given[1])) if isinstance(given, tuple) else None
