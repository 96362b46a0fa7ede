"""`HttpProtocol` under a real server, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentlightning.types import RequestError
from agentlightning.utils import server_thread
from agentlightning.utils.asgi import read_body
from agentlightning.utils.server_thread import ThreadedServer

FOREVER = 120.0
LARGE = 5 * 1024 * 1024
LIMIT = 6 * 1024 * 1024


class App:
    """Says what it was asked; some paths do something special."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.waiting = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/raises":
            raise ValueError("on purpose")
        if path == "/silent":
            return
        if path == "/wait":
            await receive()
            self.loop.call_soon_threadsafe(self.waiting.set)
            assert (await receive())["type"] == "http.disconnect"
            self.loop.call_soon_threadsafe(self.gone.set)
            return
        if path == "/slow":
            self.loop.call_soon_threadsafe(self.waiting.set)
            await asyncio.sleep(0.2)
        try:
            body = b"" if path == "/unread" else await read_body(scope["headers"], receive, LIMIT)
        except RequestError as error:
            await answer(send, error.status or 0, b"{}")
            return
        assert body is not None
        seen = {"path": path, "method": scope["method"], "query": scope["query_string"].decode(), "bytes": len(body)}
        await answer(send, 200, json.dumps(seen).encode())


async def answer(send: Any, status: int, body: bytes) -> None:
    size = b"%d" % len(body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", size)]})
    await send({"type": "http.response.body", "body": body})


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, path: str, body: bytes = b"", *headers: str, method: str = "POST", version: str = "1.1") -> None:
        lines = [f"{method} {path} HTTP/{version}", "host: x", f"content-length: {len(body)}", *headers, "", ""]
        self.say("\r\n".join(lines).encode() + body)

    async def head(self) -> tuple[int, str]:
        """Status and the lines of the head."""
        async with asyncio.timeout(FOREVER):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        return int(head.split()[1]), head

    async def answer(self) -> tuple[int, Any]:
        status, head = await self.head()
        size = int(head.split("content-length: ")[1].split("\r\n")[0])
        async with asyncio.timeout(FOREVER):
            body = await self.reader.readexactly(size)
        return status, json.loads(body) if body.startswith(b"{") else body

    async def ended(self) -> bool:
        """Whether nothing more came before the server closed the connection."""
        async with asyncio.timeout(FOREVER):
            return await self.reader.read() == b""


@asynccontextmanager
async def talking() -> AsyncGenerator[tuple[Talk, App, ThreadedServer]]:
    app = App()
    server = ThreadedServer("127.0.0.1", None, lambda: app, name="test", whole_answers=True)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Talk(reader, writer), app, server
    finally:
        writer.close()
        await server.stop()


async def test_one_connection_serves_many_requests():
    async with talking() as (talk, _, _):
        talk.ask("/a%20b/c?x=1&y=%20", b"body")
        seen = {"path": "/a b/c", "method": "POST", "query": "x=1&y=%20", "bytes": 4}
        assert await talk.answer() == (200, seen)
        talk.ask("/second", method="GET")
        assert (await talk.answer())[1]["path"] == "/second"
        talk.ask("/", b"x" * LARGE)
        assert (await talk.answer())[1]["bytes"] == LARGE


async def test_requests_sent_together_are_answered_in_their_order():
    async with talking() as (talk, _, _):
        talk.ask("/slow", b"first")
        for number in range(50):
            talk.ask(f"/{number}", b"x" * number)
        assert (await talk.answer())[1]["path"] == "/slow"
        for number in range(50):
            assert (await talk.answer())[1]["bytes"] == number


async def test_a_body_may_come_in_chunks_and_in_pieces():
    async with talking() as (talk, _, _):
        for piece in (b"POST / HT", b"TP/1.1\r\ntransfer-encoding: chu", b"nked\r\n\r\n3\r", b"\nabc\r\n2\r\nde\r\n"):
            talk.say(piece)
            await talk.writer.drain()
            await asyncio.sleep(0.01)
        talk.say(b"0\r\n\r\n")
        assert (await talk.answer())[1]["bytes"] == 5


async def test_a_client_that_waits_to_be_told_is_told_once():
    async with talking() as (talk, _, _):
        talk.say(b"POST / HTTP/1.1\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert (await talk.head())[0] == 100
        talk.say(b"bo")
        await asyncio.sleep(0.05)
        talk.say(b"dy")
        assert (await talk.answer())[1]["bytes"] == 4


async def test_a_client_that_was_not_told_to_send_is_not_taken_to_have_sent():
    async with talking() as (talk, _, _):
        talk.say(b"POST /unread HTTP/1.1\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        status, head = await talk.head()
        assert (status, "connection: close" in head) == (200, True)


@pytest.mark.parametrize(("version", "header"), [("1.0", "x: y"), ("1.1", "connection: close")])
async def test_a_connection_ends_where_the_client_wants_no_more(version: str, header: str):
    async with talking() as (talk, _, _):
        talk.ask("/", b"", header, version=version)
        assert "connection: close" in (await talk.head())[1]
        async with asyncio.timeout(FOREVER):
            await talk.reader.read()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_after_what_came_before_it(nonsense: bytes):
    async with talking() as (talk, _, _):
        talk.say(nonsense)
        status, head = await talk.head()
        assert (status, "connection: close" in head) == (400, True)
    async with talking() as (talk, _, _):
        talk.ask("/slow")
        talk.say(nonsense)
        assert (await talk.answer())[0] == 200
        assert await talk.ended()


async def test_an_application_that_fails_gives_500_and_the_connection_goes_on():
    async with talking() as (talk, _, _):
        for path in ("/raises", "/silent", "/raises"):
            talk.ask(path, b"body")
            assert await talk.answer() == (500, b"Internal Server Error")
        talk.ask("/")
        assert (await talk.answer())[0] == 200


async def test_what_is_left_of_a_body_is_not_taken_for_the_next_request():
    async with talking() as (talk, _, _):
        talk.ask("/", b"GET /smuggled HTTP/1.1\r\n\r\n" + b"x" * LIMIT)
        assert (await talk.answer())[0] == 413
        talk.ask("/unread", b"GET /smuggled HTTP/1.1\r\n\r\n")
        talk.ask("/next")
        assert (await talk.answer())[1]["path"] == "/unread"
        assert (await talk.answer())[1]["path"] == "/next"


async def test_the_answer_to_head_has_no_body():
    async with talking() as (talk, _, _):
        talk.ask("/", method="HEAD")
        talk.ask("/next")
        assert "content-length" in (await talk.head())[1]
        assert (await talk.answer())[1]["path"] == "/next"


async def test_the_application_hears_that_the_client_is_gone():
    async with talking() as (talk, app, _):
        talk.ask("/wait", b"body")
        async with asyncio.timeout(FOREVER):
            await app.waiting.wait()
            talk.writer.close()
            await app.gone.wait()


async def test_stopping_answers_what_was_asked_and_closes_what_is_idle():
    async with talking() as (talk, app, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        idle = Talk(reader, writer)
        talk.ask("/slow")
        async with asyncio.timeout(FOREVER):
            await app.waiting.wait()
        await server.stop()
        assert (await talk.answer())[1]["path"] == "/slow"
        assert await talk.ended()
        assert await idle.ended()
        writer.close()


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_thread, "KEEP_ALIVE_SECONDS", 1)
    async with talking() as (talk, _, _):
        talk.ask("/")
        assert (await talk.answer())[0] == 200
        assert await talk.ended()
