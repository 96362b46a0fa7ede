"""The gateway as an ASGI application: paths, who may call, how large a request may be, errors, clients that go away.

Called by uvicorn; hands chat completions to `gateway`.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.types import RequestError

from .gateway import Gateway

T = TypeVar("T")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTEMPT = "/rollout/{rollout_id}/attempt/{attempt_id}"
_JSON = "application/json"


def create_app(gateway: Gateway, *, api_key: str | None, max_body_bytes: int) -> ASGIApp:
    """The application.

    Args:
        gateway: Answers the calls.
        api_key: What callers must show as `Authorization: Bearer ...` or `x-api-key`; `None`: nothing.
        max_body_bytes: Longest request body; longer ones get 413.
    """

    async def models(request: Request) -> Response:
        _attempt_ids(request.path_params)
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"} for name in gateway.routes.names
        ]
        return Response(orjson.dumps({"object": "list", "data": listed}), media_type=_JSON)

    async def health(_: Request) -> Response:
        return Response(orjson.dumps({"status": "ok", "models": len(gateway.routes.names)}), media_type=_JSON)

    chat = _ChatEndpoint(gateway, max_body_bytes)
    # Some agents put `/v1` behind a base URL themselves, some don't.
    bases = [f"{attempt}{version}" for attempt in (_ATTEMPT, "") for version in ("/v1", "")]
    routes = [Route(f"{base}/chat/completions", chat, methods=["POST"]) for base in bases]
    routes += [Route(f"{base}/models", models) for base in bases]
    routes += [Route(f"{base}/health", health) for base in (_ATTEMPT, "")]
    return _Guard(Router(routes, redirect_slashes=False, default=_not_found), api_key)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise RequestError(
        f"no such path `{scope['path'][:200]}`; there are `/v1/chat/completions`, `/v1/models` and `/health`,"
        " also behind `/rollout/<rollout id>/attempt/<attempt id>`",
        status=404,
        code="unknown_path",
    )


class _Guard:
    """Checks the token, and answers every `RequestError` with its status and OpenAI's error object."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = api_key.encode() if api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._key is not None and scope["path"] != "/health":
                self._check(scope, self._key)
            await self._app(scope, receive, send)
        except RequestError as error:
            # OpenAI's client repeats a 409 by itself, which can't help here.
            headers = {"x-should-retry": "false"} if error.status == 409 else None
            answer = Response(orjson.dumps(error.to_body()), error.status, headers, _JSON)
            await answer(scope, receive, send)

    def _check(self, scope: Scope, key: bytes) -> None:
        headers = dict(scope["headers"])
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        shown = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if not hmac.compare_digest(shown, key):
            raise RequestError(
                "wrong or missing API key; send it as `Authorization: Bearer <key>` or `x-api-key`",
                status=401,
                code="invalid_api_key",
            )


class _ChatEndpoint:
    """`POST .../chat/completions`."""

    def __init__(self, gateway: Gateway, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ids = _attempt_ids(scope["path_params"])
        raw = await _read_body(scope, receive, self._limit)
        if raw is None:
            return
        answer = await _unless_disconnected(receive, self._gateway.chat(raw, ids))
        if answer is not None:
            await Response(answer, media_type=_JSON)(scope, receive, send)


def _attempt_ids(path_params: dict[str, Any]) -> tuple[str, str] | None:
    if not path_params:
        return None
    for name in ("rollout_id", "attempt_id"):
        if not _SAFE_ID.fullmatch(path_params[name]):
            raise RequestError(f"the path's `{name}` is not one of this system's ids", status=404, code="invalid_id")
    return path_params["rollout_id"], path_params["attempt_id"]


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The request body; `None` if the client went away while sending it."""
    size = int(next((value for name, value in scope["headers"] if name == b"content-length"), b"0"))
    received, parts = 0, list[bytes]()
    more = True
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        received += len(parts[-1])
        size = max(size, received)
    if size > limit:
        raise RequestError(
            f"the request body is longer than {limit} bytes; send less, or raise `max_body_bytes`", status=413
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or `None` if the client goes away first: `work` is cancelled then.

    To be called when the request body has been read, from where on the server only reports the disconnect.
    """
    caller = asyncio.current_task()
    assert caller is not None
    gone, working = False, True

    def cancel(_: asyncio.Task[None]) -> None:
        nonlocal gone
        if working:
            gone = caller.cancel()

    watch = asyncio.create_task(_disconnected(receive))
    watch.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and caller.uncancel() == 0:
            return None
        raise
    finally:
        working = False
        watch.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
