"""An HTTP proxy between clients and the store that loses, delays and repeats. Runs in a test's own loop."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Self

import aiohttp
from aiohttp import web

FAULTS = ("pass", "pass", "pass", "delay", "lose the request", "lose the answer", "repeat")


class FaultyProxy:
    """Forwards to `upstream`; what it does with each request is up to chance, once `faulty` is set."""

    def __init__(self, upstream: str, moments: random.Random) -> None:
        self.faulty = False
        self.done: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self._upstream = upstream
        self._moments = moments
        self._client: aiohttp.ClientSession
        self._runner: web.AppRunner
        self.url = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self._moments.choice(FAULTS) if self.faulty else "pass"
        self.done[fault] += 1
        body = await request.read()
        if fault == "lose the request":
            return self._cut(request)
        if fault == "delay":
            await asyncio.sleep(self._moments.uniform(0, 0.3))
        if fault == "repeat":
            await self._forward(request, body)
        status, headers, answer = await self._forward(request, body)
        if fault == "lose the answer":
            return self._cut(request)
        return web.Response(status=status, headers=headers, body=answer)

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length", "connection")}
        url = self._upstream + request.path_qs
        async with self._client.request(request.method, url, data=body, headers=kept) as response:
            return response.status, {"Content-Type": response.content_type}, await response.read()

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        """As if the network had gone: the connection is reset."""
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(auto_decompress=True, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._runner.cleanup()
        await self._client.close()
