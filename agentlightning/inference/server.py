"""The native engine over HTTP: `/v1/chat/completions`, `/v1/models`, `/health`.

Called by `agl serve`; calls `service.py`. Errors are OpenAI's error objects, whatever goes wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentlightning.types import ConfigError, RequestError

from .service import ChatService

CLIENT_GONE = 499
"""Status for a client that hung up; nobody reads it, logs do."""


def create_app(service: ChatService, *, api_key: str | None = None) -> Starlette:
    """The ASGI application.

    Args:
        service: What answers; its engine must be running.
        api_key: Where given, clients must send it as a bearer token.
    """

    async def chat(request: Request) -> Response:
        _authorize(request, api_key)
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the request body is not JSON: {error}") from error
        reply = asyncio.ensure_future(service.chat(body))
        # After the body, all that a client still sends is that it hung up.
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({reply, gone}, return_when=asyncio.FIRST_COMPLETED)
            return _json((await reply).response) if reply.done() else Response(status_code=CLIENT_GONE)
        finally:
            reply.cancel()
            gone.cancel()

    async def models(request: Request) -> Response:
        _authorize(request, api_key)
        card = {"id": service.model_name, "object": "model", "created": 0, "owned_by": "agentlightning"}
        return _json({"object": "list", "data": [card | {"max_model_len": service.engine.context}]})

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "engine": service.engine.stats()})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
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
    if api_key is None and not _is_loopback(host):
        raise ConfigError(f"`host` {host} is open to other machines: give an `api_key`, or listen on 127.0.0.1")
    listener = bind(host, port)
    app = create_app(service, api_key=api_key)
    address = f"[{host}]" if ":" in host else host
    print(f"serving {service.model_name} at http://{address}:{listener.getsockname()[1]}/v1", flush=True)
    # An interrupt is how serving ends.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        ConfigError: it is taken or not of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"can't listen on port {port} of {host} ({reason}): choose another `port`") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authorize(request: Request, api_key: str | None) -> None:
    if api_key is None:
        return
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not secrets.compare_digest(sent.encode(), api_key.encode()):
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
    return _json(RequestError(f"the server failed: {error!r}", status=500).to_body(), 500)
