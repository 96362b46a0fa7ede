"""The gateway as an ASGI application: paths, who may call, how large a request may be, errors, clients that go away.

Called by uvicorn; hands chat completions to `gateway`.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.types import RequestError
from agentlightning.utils.asgi import read_body, shows_key, unless_disconnected

from .gateway import Gateway

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
        if not shows_key(scope["headers"], key):
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
        raw = await read_body(scope["headers"], receive, self._limit)
        if raw is None:
            return
        answer = await unless_disconnected(receive, self._gateway.chat(raw, ids))
        if answer is not None:
            await Response(answer, media_type=_JSON)(scope, receive, send)


def _attempt_ids(path_params: dict[str, Any]) -> tuple[str, str] | None:
    if not path_params:
        return None
    for name in ("rollout_id", "attempt_id"):
        if not _SAFE_ID.fullmatch(path_params[name]):
            raise RequestError(f"the path's `{name}` is not one of this system's ids", status=404, code="invalid_id")
    return path_params["rollout_id"], path_params["attempt_id"]
