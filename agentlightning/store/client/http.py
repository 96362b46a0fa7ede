"""HTTP/1.1 requests to one server from one event loop, over connections that are kept. Used by `transport`.

Measured: a small request costs the client half of what it costs through aiohttp, whose sessions also do what is not
needed here: cookies, redirects, compression, streams. httptools parses, asyncio does the rest.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import unquote, urlsplit

import httptools

from .batching import Reply

MAX_CONNECTIONS: Final = 1000
"""At once; further requests wait for one of them."""
IDLE_SECONDS: Final = 15.0
"""A connection that was not used for so long is closed rather than used again: servers and proxies forget them."""
READ_BYTES: Final = 64 * 1024
"""Most that is read at once. The buffer is kept: asyncio's own is 256 KiB, made for every answer."""
JOINED_BYTES: Final = 64 * 1024
"""A body up to so long goes out in one write with the head; a longer one is not copied for that."""


class HttpClient:
    """Requests of one event loop to one server.

    Args:
        root: `http://host:port` or `https://...`, with a path in front of all others if there is one.
        headers: Sent with every request.
        timeout: Longest time of a request, in seconds.
        connection_timeout: Longest time to connect, in seconds.

    Raises `ValueError` for a header that can't be sent.
    """

    def __init__(self, root: str, headers: Mapping[str, str], *, timeout: float, connection_timeout: float) -> None:
        url = urlsplit(root)
        self._host, self._ssl = url.hostname or "", url.scheme == "https"
        self._port = url.port or (443 if self._ssl else 80)
        self._path = url.path.rstrip("/")
        common = {"host": url.netloc.rpartition("@")[2], "accept": "*/*", **headers}
        if url.username is not None and "authorization" not in common:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            common["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        self._headers = "".join(_line(name, value) for name, value in common.items())
        self._timeout, self._connection_timeout, self._loop = timeout, connection_timeout, asyncio.get_running_loop()
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        """The one used last comes last, and is used first."""
        self._closed = False

    async def request(self, method: str, path: str, body: bytes, key: str | None = None) -> Reply:
        """Send a request and read the answer. Cancelled, or too late, its connection is closed.

        Args:
            method: In capitals.
            path: Percent-encoded, with its query.
            body: May be empty.
            key: The `Idempotency-Key`.

        Raises:
            OSError: there is no connection, or it broke; `ConnectionError` where what came is no HTTP.
            TimeoutError: it took too long.
        """
        more = "" if key is None else _line("idempotency-key", key)
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._headers}{more}content-length: {len(body)}\r\n\r\n"
        async with self._places:
            connection = self._kept() or await self._connect()
            try:
                return await connection.ask(head.encode(), body, self._timeout)
            finally:
                if connection.usable:
                    self._idle.append(connection)
                else:
                    connection.abort()

    def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    def _kept(self) -> _Connection | None:
        """An open connection that nobody uses, if there is a fresh one."""
        oldest = self._loop.time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.used_at > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        if self._closed:
            raise ConnectionError("the connections are closed")
        make = functools.partial(_Connection, self._loop, self._open)
        try:
            async with asyncio.timeout(self._connection_timeout):
                _, connection = await self._loop.create_connection(
                    make, self._host, self._port, ssl=True if self._ssl else None
                )
        except TimeoutError as error:
            raise TimeoutError(f"no connection within {self._connection_timeout:g} s") from error
        return connection


class _Connection(asyncio.BufferedProtocol):
    """One connection: one request at a time. Also the callbacks of its parser, whose names httptools gives."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: set[_Connection]) -> None:
        self.usable = False
        """Whether another request may be sent."""
        self.used_at = 0.0
        self._loop = loop
        self._all = connections
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))

    async def ask(self, head: bytes, body: bytes, timeout: float) -> Reply:
        assert self._transport is not None
        self.usable = False
        self._body, self._sized, self._headed = list[bytes](), False, False
        self._answer = answer = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._fail, TimeoutError(f"no answer within {timeout:g} s"))
        try:
            for part in (head + body,) if len(body) <= JOINED_BYTES else (head, body):
                self._transport.write(part)
            return await answer
        finally:
            timer.cancel()
            self._answer = None

    def abort(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # -- asyncio calls these ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._all.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        if self._answer is None or self._answer.done():  # a farewell that nobody asked for
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"what came is no answer in HTTP/1.1: {error}; it began {bytes(data[:80])!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._all.discard(self)
        if self._answer is None or self._answer.done():
            return
        if exc is None and self._headed and not self._sized:  # such an answer ends with its connection
            self._answer.set_result(Reply(self._parser.get_status_code(), b"".join(self._body)))
        else:
            self._fail(exc or ConnectionResetError("the server closed the connection before it answered"))

    # -- httptools calls these --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.usable = False  # also where another answer follows on the one that was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._sized = self._sized or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._headed = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._headed or self._answer is None or self._answer.done():  # 100 Continue and its like
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._answer.set_result(Reply(self._parser.get_status_code(), body))
        self.used_at, self.usable = self._loop.time(), self._parser.should_keep_alive()


def _line(name: str, value: str) -> str:
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError(f"header `{name}` has a line end or a null in its value; give it without")
    return f"{name}: {value}\r\n"
