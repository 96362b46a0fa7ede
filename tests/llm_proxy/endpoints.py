"""Real HTTP endpoints that can be told to fail in every way, for the tests of who serves a call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from .conftest import QUESTION, completion

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
BODY: dict[str, Any] = {"model": "main", "messages": QUESTION}
STREAMED: dict[str, Any] = {**BODY, "stream": True}


class HttpEndpoint:
    """An OpenAI-compatible endpoint. `answer` says what it does; it counts what it is asked."""

    def __init__(self) -> None:
        self.answer: Answer = whole
        self.asked = 0
        self.running = 0
        self.on_call: Callable[[], None] = lambda: None
        self.probed = 0
        self.up = True
        """Whether `/models` answers."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def entry(self, name: str = "main", **params: Any) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": "openai/m", "api_base": self.url, **params}}

    async def start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def _models(self, _: web.Request) -> web.Response:
        self.probed += 1
        return web.json_response({"data": []}, status=200 if self.up else 503)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.asked += 1
        self.running += 1
        self.on_call()
        try:
            return await self.answer(request, body)
        finally:
            self.running -= 1


@contextlib.asynccontextmanager
async def endpoints(count: int) -> AsyncIterator[list[HttpEndpoint]]:
    made = [HttpEndpoint() for _ in range(count)]
    for one in made:
        await one.start()
    yield made
    for one in made:
        await one.stop()


# -- what endpoints do --------------------------------------------------------------------------------------------


async def whole(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A good answer, streamed if that is asked for."""
    if body.get("stream"):
        return await _stream(request, body, broken=False)
    return web.json_response(completion(body["model"], ["fine"]))


async def midway(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Dies after the first chunk."""
    return await _stream(request, body, broken=True)


async def reset(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Cuts the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


def status(code: int, **headers: str) -> Answer:
    """Refuses."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": f"status {code}"}}, status=code, headers=named)

    return answer


def first(refusals: list[Answer]) -> Answer:
    """Does each of `refusals` once, then answers."""
    left = list(refusals)

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (left.pop(0) if left else whole)(request, body)

    return answer


def when(release: asyncio.Event, then: Answer = whole) -> Answer:
    """Waits."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await release.wait()
        return await then(request, body)

    return answer


def together(servers: list[HttpEndpoint], count: int) -> list[int]:
    """Let nobody be answered before `count` calls were there at once; gives how many there were, at each arrival."""
    seen: list[int] = []
    release = asyncio.Event()

    def arrived() -> None:
        seen.append(sum(server.running for server in servers))
        if seen[-1] == count:
            release.set()

    for server in servers:
        server.on_call, server.answer = arrived, when(release)
    return seen


async def _stream(request: web.Request, body: dict[str, Any], *, broken: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    async for piece in _pieces(body["model"]):
        await response.write(b"data: " + piece + b"\n\n")
        if broken:
            assert request.transport is not None
            request.transport.close()
            return response
    return response


async def _pieces(model: str) -> AsyncGenerator[bytes, None]:
    about = {"id": "c", "created": 1, "model": model, "object": "chat.completion.chunk"}
    for delta, reason in (({"role": "assistant", "content": "fi"}, None), ({"content": "ne"}, None), ({}, "stop")):
        yield orjson.dumps({**about, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    yield b"[DONE]"
