"""The thread that serves an ASGI application."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import aiohttp
import pytest

from agentlightning.types import ConfigError
from agentlightning.utils.server_thread import ServerThread, bind, host_in_url, is_loopback


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": threading.current_thread().name.encode()[:5]})


async def test_serves_until_stopped():
    sock, ends = bind("127.0.0.1", None), list[str]()
    port: int = sock.getsockname()[1]

    async def end() -> None:
        ends.append("end")

    server = ServerThread(hello, sock, on_stop=end, name="hello")
    server.call_in_loop(lambda: ends.append("never: it has no loop yet"))
    server.start()
    await server.wait_ready()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        assert await answer.text() == "hello"
    called = asyncio.Event()
    loop = asyncio.get_running_loop()
    server.call_in_loop(lambda: loop.call_soon_threadsafe(called.set))
    await asyncio.wait_for(called.wait(), 60)
    server.stop()
    await server.wait_done()
    assert ends == ["end"]
    server.call_in_loop(lambda: ends.append("never: it has ended"))
    assert ends == ["end"]
    bind("127.0.0.1", port).close()


async def test_a_taken_port_is_named():
    sock = bind("127.0.0.1", 0)
    with sock, pytest.raises(ConfigError, match=str(sock.getsockname()[1])):
        bind("127.0.0.1", sock.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "loopback", "name"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("localhost", True, "localhost"),
        ("::1", True, "[::1]"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("::", False, "127.0.0.1"),
        ("box.example", False, "box.example"),
    ],
)
def test_hosts(host: str, loopback: bool, name: str):
    assert is_loopback(host) == loopback
    assert host_in_url(host, None) == name
    assert host_in_url(host, "other") == "other"
