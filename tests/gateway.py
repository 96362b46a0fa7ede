"""A real HTTP server that stands for the gateway where only its word on an attempt's calls is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = tuple[int, Any]
"""Status and JSON body; a status of 0 cuts the connection."""
CONFIRMED: Answer = (200, {"calls": 0})


class StandIn:
    """Answers `POST .../complete` with `answers`, one after the other, and then with the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers or [CONFIRMED])
        self.asked: list[tuple[str, str | None]] = []
        """Path and `authorization` of each question."""
        self.when_asked: Callable[[], Awaitable[None]] | None = None
        self.url = ""
        """Base URL, as the `endpoint` of a `ProxyLLM`."""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("authorization")))
        if self.when_asked is not None:
            await self.when_asked()
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(body, status=status or 500)


@asynccontextmanager
async def stand_in(*answers: Answer) -> AsyncIterator[StandIn]:
    gateway = StandIn(*answers)
    app = web.Application()
    app.router.add_post("/{path:.*}", gateway.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield gateway
    await runner.cleanup()
