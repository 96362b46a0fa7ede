"""The gateway as an ASGI application: paths, who may call, how large a request may be, errors, clients that go away.

Called by uvicorn; hands calls to `gateway`. A plain application: a framework's routing would cost more than the call.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.types import RequestError
from agentlightning.utils.asgi import header, read_body, shows_key, unless_disconnected

from .dialects import CHAT, INTERFACES, Interface
from .gateway import Gateway

_PATH = re.compile(r"(?:/rollout/([^/]*)/attempt/([^/]*))?(?:/v1){0,2}(/[a-z_/]+)")
"""Some clients put `/v1` behind a base URL themselves: `anthropic`'s does, also behind one that ends so already."""
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BY_PATH = {interface.path: interface for interface in INTERFACES}
_JSON = (b"content-type", b"application/json")
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

MAX_HELD_BYTES = 1024 * 1024 * 1024
"""Of request bodies that are served or wait at once; in memory, as JSON objects, they are a few times as large."""

Ids = tuple[str, str] | None


def create_app(gateway: Gateway, *, api_key: str | None, max_body_bytes: int) -> ASGIApp:
    """The application.

    Args:
        gateway: Answers the calls.
        api_key: What callers must show as `Authorization: Bearer ...` or `x-api-key`; `None`: nothing.
        max_body_bytes: Longest request body; longer ones get 413.
    """
    key = api_key.encode() if api_key is not None else None
    room = _Room(max(MAX_HELD_BYTES, max_body_bytes))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway serves HTTP, not {scope['type']}")
        answer = _Answer(send)
        found = _PATH.fullmatch(scope["path"])
        path = found[3] if found else ""
        interface = _BY_PATH.get(path, CHAT)
        try:
            if path != "/health":
                _check_key(scope, key)
            ids = _ids(found)
            if path in _BY_PATH:
                _check_method(scope, "POST")
                declared = int(header(scope["headers"], b"content-length") or max_body_bytes)
                with room.take(min(declared, max_body_bytes)) as place:
                    raw = await read_body(scope["headers"], receive, max_body_bytes)
                    if raw is not None:
                        place.shrink(len(raw))  # of a body in pieces the size is known only now
                        await unless_disconnected(receive, _serve(gateway, interface, raw, ids, answer))
            else:
                await answer.whole(orjson.dumps(await _other(gateway, scope, path, ids)))
        except RequestError as error:
            await answer.error(interface, error)
        except asyncio.CancelledError:  # the server's last act on calls that it can't wait for
            await answer.error(interface, RequestError("the gateway was stopped before it had an answer", status=503))

    return app


class _Room:
    """How many bytes of request bodies may be held."""

    def __init__(self, limit: int) -> None:
        self.free = limit

    @contextmanager
    def take(self, size: int) -> Generator[_Place]:
        """Hold a body. Raises `RequestError` 429 where there is no room for it."""
        if size > self.free:
            raise RequestError(
                "the gateway holds as many requests as its memory allows; ask again later",
                status=429,
                code="too_many_requests",
                retry_after=1.0,
            )
        place = _Place(self, size)
        self.free -= size
        try:
            yield place
        finally:
            place.shrink(0)


class _Place:
    """Room for one body."""

    def __init__(self, room: _Room, size: int) -> None:
        self._room, self._size = room, size

    def shrink(self, size: int) -> None:
        """Give back what is not needed."""
        self._room.free += self._size - size
        self._size = size


async def _serve(gateway: Gateway, interface: Interface, raw: bytes, ids: Ids, answer: _Answer) -> None:
    await gateway.serve(interface, raw, ids, answer)
    await answer.end()


async def _other(gateway: Gateway, scope: Scope, path: str, ids: Ids) -> dict[str, Any]:
    """What is not a call of a model."""
    if path == "/models":
        _check_method(scope, "GET")
        return _models(gateway.routes.names)
    if path == "/health":
        _check_method(scope, "GET")
        return {"status": "ok", "models": len(gateway.routes.names)}
    if path == "/complete" and ids is not None:
        _check_method(scope, "POST")
        return {"calls": await gateway.complete(ids)}
    served = ", ".join(f"`/v1{interface.path}`" for interface in INTERFACES)
    raise RequestError(
        f"no such path `{scope['path'][:200]}`; there are {served}, `/v1/models` and `/health`,"
        " also behind `/rollout/<rollout id>/attempt/<attempt id>`",
        status=404,
        code="unknown_path",
    )


def _models(names: list[str]) -> dict[str, Any]:
    """OpenAI's list of models, with what Anthropic's clients look for beside it."""
    openai = {"object": "model", "created": 0, "owned_by": "agentlightning"}
    anthropic = {"type": "model", "created_at": "1970-01-01T00:00:00Z"}
    listed = [{"id": name, **openai, **anthropic, "display_name": name} for name in names]
    return {
        "object": "list",
        "data": listed,
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


def _check_key(scope: Scope, key: bytes | None) -> None:
    if key is not None and not shows_key(scope["headers"], key):
        raise RequestError(
            "wrong or missing API key; send it as `Authorization: Bearer <key>` or `x-api-key`",
            status=401,
            code="invalid_api_key",
        )


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise RequestError(f"`{scope['path'][:200]}` takes {method}, not {scope['method']}", status=405)


def _ids(found: re.Match[str] | None) -> Ids:
    if found is None or found[1] is None:
        return None
    for name, value in (("rollout_id", found[1]), ("attempt_id", found[2])):
        if not _SAFE_ID.fullmatch(value):
            raise RequestError(f"the path's `{name}` is not one of this system's ids", status=404, code="invalid_id")
    return found[1], found[2]


class _Answer:
    """The HTTP response, begun by the first thing that is sent. Implements `gateway.Answer`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams = False

    async def whole(self, data: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        length = (b"content-length", str(len(data)).encode())
        await self._send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
        await self._send({"type": "http.response.body", "body": data})

    async def event(self, data: bytes) -> None:
        if not self._streams:
            self._streams = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        if self._streams:
            await self._send({"type": "http.response.body", "body": b""})

    async def error(self, interface: Interface, error: RequestError) -> None:
        body = interface.error(error)
        if self._streams:
            await self.event(interface.frame(body))
            await self.end()
        else:
            # The clients of OpenAI and Anthropic repeat a 409 by themselves, which can't help here.
            headers = [(b"x-should-retry", b"false")] if error.status == 409 else []
            if error.retry_after is not None:
                headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
            await self.whole(orjson.dumps(body), error.status, *headers)
