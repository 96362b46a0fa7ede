"""The native engine over HTTP: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health`.

Called by `agl serve`; calls `service.py`. Errors are OpenAI's error objects, whatever goes wrong; in the middle of a
stream they are its last event.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agentlightning.types import ChatReply, ConfigError, RequestError
from agentlightning.utils.asgi import read_body, shows_key, unless_disconnected
from agentlightning.utils.server_thread import bind, host_in_url, is_loopback

from .service import ChatService

if TYPE_CHECKING:
    from agentlightning.llm_proxy.backend import Dialect, Json

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 << 20
_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def create_app(service: ChatService, *, api_key: str | None = None, max_body_bytes: int = MAX_BODY_BYTES) -> Starlette:
    """The ASGI application.

    Args:
        service: What answers; its engine must be running.
        api_key: Where given, clients must send it as a bearer token or as `x-api-key`.
        max_body_bytes: Longest request body; longer ones get 413.
    """
    key = None if api_key is None else api_key.encode()

    async def models(request: Request) -> Response:
        _authorize(request.scope, key)
        card = {"id": service.model_name, "object": "model", "created": 0, "owned_by": "agentlightning"}
        return _json({"object": "list", "data": [card | {"max_model_len": service.engine.context}]})

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "engine": service.engine.stats()})

    chat = _Endpoint(service, "chat", key, max_body_bytes)
    completions = _Endpoint(service, "completions", key, max_body_bytes)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={RequestError: _refused, HTTPException: _http_error, Exception: _unexpected},
    )


def run(service: ChatService, host: str = "127.0.0.1", port: int = 8000, *, api_key: str | None = None) -> None:
    """Print the base URL and serve until interrupted.

    Args:
        service: What answers; its engine must be running.
        host: Address to listen on. Anything but the machine itself needs an `api_key`.
        port: 0 takes a free one.
        api_key: See `create_app`.

    Raises:
        ConfigError: the port is taken, or the address is open to others and there is no key.
    """
    if api_key is None and not is_loopback(host):
        raise ConfigError(f"`host` {host} is open to other machines: give an `api_key`, or listen on 127.0.0.1")
    listener = bind(host, port)
    app = create_app(service, api_key=api_key)
    address = f"{host_in_url(host, None)}:{listener.getsockname()[1]}"
    print(f"serving {service.model_name} at http://{address}/v1", flush=True)
    # An interrupt is how serving ends.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


class _Endpoint:
    """A path that answers requests of one dialect. A client that hangs up ends its request."""

    def __init__(self, service: ChatService, dialect: Dialect, key: bytes | None, max_body_bytes: int):
        self._service, self._key, self._limit = service, key, max_body_bytes
        self._dialect: Dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _authorize(scope, self._key)
        raw = await read_body(scope["headers"], receive, self._limit)
        if raw is None:
            return
        body = _parse(raw)
        if isinstance(body, dict) and cast("Json", body).get("stream") is True:
            async with aclosing(self._service.stream(self._dialect, body)) as items:
                await unless_disconnected(receive, _send_events(items, send))
            return
        reply = await unless_disconnected(receive, self._service.call(self._dialect, body))
        if reply is not None:
            await _json(reply.response)(scope, receive, send)


async def _send_events(items: AsyncGenerator[Json | ChatReply], send: Send) -> None:
    """Send chunks as server-sent events. Errors before the first chunk are raised, later ones are sent as an event."""
    first = await anext(items)
    await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
    await send(_event(first))
    try:
        async for item in items:
            if not isinstance(item, ChatReply):
                await send(_event(item))
    except RequestError as error:
        await send(_event(error.to_body()))
    except Exception as error:  # the status is sent: an event is all that can still be said
        logger.exception("a streamed answer failed")
        await send(_event(_failure(error).to_body()))
    else:
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _event(value: Any) -> Json:
    return {"type": "http.response.body", "body": b"data: %b\n\n" % orjson.dumps(value), "more_body": True}


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request body is not JSON: {error}", code="invalid_json") from error


def _authorize(scope: Scope, key: bytes | None) -> None:
    if key is not None and not shows_key(scope["headers"], key):
        raise RequestError("the API key is missing or wrong", status=401, code="invalid_api_key")


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _json(error.to_body(), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _json(RequestError(message, status=error.status_code).to_body(), error.status_code)


async def _unexpected(_: Request, error: Exception) -> Response:
    return _json(_failure(error).to_body(), 500)


def _failure(error: Exception) -> RequestError:
    return RequestError(f"the server failed: {error!r}", status=500)
