"""`HttpClient` against servers that answer in every way HTTP/1.1 allows, and in some that it doesn't."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store.client import http
from agentlightning.store.client.batching import Reply
from agentlightning.store.client.http import HttpClient

FOREVER = 120.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Served:
    """What a server has seen: the heads and bodies of requests, by connection."""

    def __init__(self) -> None:
        self.requests: list[list[tuple[str, bytes]]] = []
        self.ended = 0
        """Connections that the client has closed."""
        self.changed = asyncio.Event()

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(FOREVER):
            while not met():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def serving(*answers: bytes | Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, Served]]:
    """A server that gives these answers in turn, and then the last one; bytes that end with `!` close the connection
    instead of the `!`."""
    served, left = Served(), list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.requests.append(mine := [])
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
                mine.append((head.decode(), await reader.readexactly(length)))
                served.changed.set()
                answer = left.pop(0) if len(left) > 1 else left[0]
                if not isinstance(answer, bytes):
                    await answer(head, writer)
                    continue
                writer.write(answer.removesuffix(b"!"))
                if answer.endswith(b"!"):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            served.ended += 1
            served.changed.set()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], served
    finally:
        server.close()


@asynccontextmanager
async def client_of(port: int, root: str = "http://127.0.0.1:{}", **options: Any) -> AsyncIterator[HttpClient]:
    settings: dict[str, Any] = {"headers": {}, "timeout": FOREVER, "connection_timeout": FOREVER, **options}
    client = HttpClient(root.format(port), settings.pop("headers"), **settings)
    try:
        yield client
    finally:
        client.close()


async def hold(head: bytes, writer: asyncio.StreamWriter) -> None:
    """No answer."""


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (OK, Reply(200, b"ok")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Reply(404, b"")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Reply(204, b"")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
            Reply(200, b"abcde"),
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Reply(200, b"ok")),
    ],
)
async def test_answers_with_a_length_keep_the_connection(answer: bytes, reply: Reply):
    async with serving(answer) as (port, served), client_of(port) as client:
        for number in range(3):
            assert await client.request("POST", f"/{number}", b"body") == reply
        assert [[body for _, body in mine] for mine in served.requests] == [[b"body"] * 3]


async def test_an_answer_in_pieces_of_one_byte():
    async def slowly(head: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in OK:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(slowly) as (port, _), client_of(port) as client:
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nok!",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok!",  # as long as the connection
    ],
)
async def test_an_answer_after_which_the_connection_is_over(answer: bytes):
    async with serving(answer) as (port, served), client_of(port) as client:
        for _ in range(2):
            assert await client.request("GET", "/", b"") == Reply(200, b"ok")
        assert [len(mine) for mine in served.requests] == [1, 1]


@pytest.mark.parametrize(
    "answer",
    [
        b"!",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n!",
        b"HTTP/1.1 200 O!",
        b"220 mail.example.org ESMTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    ],
)
async def test_what_is_no_whole_answer_is_a_lost_connection_and_the_next_one_works(answer: bytes):
    async with serving(answer, OK) as (port, served), client_of(port) as client:
        with pytest.raises(ConnectionError):
            await client.request("GET", "/", b"")
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")
        assert [len(mine) for mine in served.requests] == [1, 1]


async def test_a_request_that_takes_too_long_closes_its_connection():
    async with serving(hold, OK) as (port, served), client_of(port, timeout=0.2) as client:
        with pytest.raises(TimeoutError, match="no answer within"):
            await client.request("GET", "/", b"")
        await served.until(lambda: served.ended == 1)
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")


async def test_a_cancelled_request_closes_its_connection():
    async with serving(hold, OK) as (port, served), client_of(port) as client:
        asking = asyncio.create_task(client.request("GET", "/", b""))
        await served.until(lambda: bool(served.requests and served.requests[0]))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await served.until(lambda: served.ended == 1)
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")


async def test_nobody_there():
    async with serving(OK) as (port, _):
        pass
    async with client_of(port) as client:
        with pytest.raises(OSError, match=str(port)):
            await client.request("GET", "/", b"")


async def test_closing_fails_what_is_under_way_and_what_comes_later():
    async with serving(hold) as (port, served), client_of(port) as client:
        asking = asyncio.create_task(client.request("GET", "/", b""))
        await served.until(lambda: bool(served.requests and served.requests[0]))
        client.close()
        for late in (asking, client.request("GET", "/", b"")):
            with pytest.raises(ConnectionError):
                await late


async def test_connections_that_were_idle_for_long_or_were_spoken_to_are_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
):
    async def twice(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")

    async with serving(OK, OK, twice, OK) as (port, served), client_of(port) as client:
        await client.request("GET", "/", b"")
        monkeypatch.setattr(http, "IDLE_SECONDS", 0.0)
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")
        await served.until(lambda: served.ended == 1)
        monkeypatch.setattr(http, "IDLE_SECONDS", FOREVER)
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")
        await served.until(lambda: served.ended == 2)
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")
        assert [len(mine) for mine in served.requests] == [1, 2, 1]


async def test_requests_at_once_have_a_connection_each_and_are_as_many_as_allowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    go = asyncio.Event()

    async def wait(head: bytes, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(OK)

    async with serving(wait) as (port, served), client_of(port) as client:
        asking = [asyncio.create_task(client.request("GET", f"/{number}", b"")) for number in range(9)]
        await served.until(lambda: [len(mine) for mine in served.requests] == [1, 1, 1])
        go.set()
        assert await asyncio.gather(*asking) == [Reply(200, b"ok")] * 9
        assert len(served.requests) == 3


async def test_a_long_body_arrives_whole():
    body = bytes(range(256)) * 40_000
    async with serving(OK) as (port, served), client_of(port) as client:
        assert await client.request("POST", "/", body) == Reply(200, b"ok")
        assert served.requests[0][0][1] == body


async def test_headers_paths_and_names_of_the_address():
    async with serving(OK) as (port, served):
        async with client_of(
            port, "http://us%20er:pass@localhost:{}/prefix/", headers={"content-type": "x/y"}
        ) as client:
            await client.request("POST", "/a%20b?c=d", b"", "key 1")
        head = served.requests[0][0][0].lower().split("\r\n")
        assert head[0] == "post /prefix/a%20b?c=d http/1.1"
        assert {f"host: localhost:{port}", "content-type: x/y", "idempotency-key: key 1"} < set(head)
        assert "authorization: basic dxmgzxi6cgfzcw==" in head
        with pytest.raises(ValueError, match="authorization"):
            HttpClient("http://x", {"authorization": "a\r\nb: c"}, timeout=1, connection_timeout=1)


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    process = await asyncio.create_subprocess_exec(
        *make, *names, "-keyout", str(key), "-out", str(certificate), stderr=subprocess.DEVNULL
    )
    assert await process.wait() == 0
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with serving(OK, tls=tls) as (port, _), client_of(port, "https://localhost:{}") as client:
        with pytest.raises(ssl.SSLError, match="certificate"):
            await client.request("GET", "/", b"")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")
        assert await client.request("GET", "/", b"") == Reply(200, b"ok")
