"""The store's server as an ASGI application: who may call, bodies, long polls, clients that go away, the end.

Called by uvicorn; hands calls to `api`. Plain ASGI: one request costs some 20 us here.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from agentlightning.types import RequestError, StoreClosedError
from agentlightning.utils.asgi import read_body, shows_key, unless_disconnected

from .api import Api
from .call import Answer, Call, ClientGone, Route, close_unawaited
from .errors import answer_of
from .metrics import Metrics
from .router import Found

T = TypeVar("T")
STOPPING = "the store's server is stopping"
OPEN_PATHS = frozenset({"/v1/agl/health"})
"""Paths that need no token."""


class StoreApp:
    """The application.

    Args:
        api: Answers the calls.
        metrics: Counts the requests.
        token: What callers must show; `None`: nothing.
        max_body_bytes: Longest request body, packed or unpacked; longer ones get 413.
    """

    def __init__(self, api: Api, metrics: Metrics, *, token: str | None, max_body_bytes: int) -> None:
        self._api = api
        self._metrics = metrics
        self._key = token.encode() if token is not None else None
        self._limit = max_body_bytes
        self._waiting: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path, status = "unknown", 499  # for whoever is gone before there is an answer
        try:
            route, params = self._route(scope)
            path = route.path
            answer = await self._answer(scope, receive, route, params)
            status = answer.status
        except ClientGone:
            return
        except (RequestError, LookupError) as error:
            answer = answer_of(error)
            status = answer.status
        finally:
            self._metrics.observe_http(scope["method"], path, status, time.perf_counter() - started)
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (b"content-type", answer.content_type.encode()),
                (b"content-length", b"%d" % len(answer.body)),
            ],
        }
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})

    def end_waits(self) -> None:
        """Answer the requests that wait with 410, and those that would. To be called in the server's loop."""
        self._closing = True
        for task in self._waiting:
            task.cancel()

    def _route(self, scope: Scope) -> Found:
        if self._key is not None and scope["path"] not in OPEN_PATHS and not shows_key(scope["headers"], self._key):
            raise RequestError(
                "wrong or missing token; send it as `Authorization: Bearer <token>` or `x-api-key`", status=401
            )
        return self._api.router.find(scope["method"], scope["raw_path"].decode("latin-1"))

    async def _answer(self, scope: Scope, receive: Receive, route: Route, params: tuple[str, ...]) -> Answer:
        named = dict(scope["headers"])
        body = await read_body(scope["headers"], receive, self._limit)
        if body is None:
            raise ClientGone
        if b"content-encoding" in named:
            body = _unpack(body, named[b"content-encoding"], self._limit)
        key = named.get(b"idempotency-key")
        call = Call(
            params,
            scope["query_string"],
            body,
            None if key is None else key.decode("latin-1"),
            named,
            lambda work: self._wait(receive, work),
        )
        return await self._api.answer(route, call)

    async def _wait(self, receive: Receive, work: Awaitable[T]) -> T:
        """`Call.wait`: the result of `work`, unless the client goes away or the server ends first."""
        if self._closing:
            # Not begun at all: a home in memory would answer without waiting, and hand out work to the end.
            close_unawaited(work)
            raise StoreClosedError(STOPPING)
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            done = await unless_disconnected(receive, _finished(work))
        except asyncio.CancelledError:
            if self._closing and task.uncancel() == 0:
                raise StoreClosedError(STOPPING) from None
            raise
        finally:
            self._waiting.discard(task)
        if done is None:
            raise ClientGone
        return done[0]


async def _finished(work: Awaitable[T]) -> tuple[T]:
    return (await work,)


def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding.lower() in (b"identity", b""):
        return body
    if encoding.lower() not in (b"gzip", b"deflate"):
        raise RequestError(
            f"`Content-Encoding` is {encoding.decode('latin-1')!r}; send gzip, deflate or none", status=415
        )
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # finds out by itself which of the two it is
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the request body is not {encoding.decode('latin-1')}: {error}", status=422) from error
    if len(data) > limit:
        raise RequestError(f"the unpacked request body is longer than {limit} bytes", status=413)
    if not unpacker.eof:
        raise RequestError("the packed request body is cut off", status=422)
    return data
