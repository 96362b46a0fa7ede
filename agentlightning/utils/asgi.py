"""What our ASGI applications share: reading bodies with a limit, tokens, clients that go away.

Called by the gateway (`llm_proxy.app`) and the store's server (`store.server.app`).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from agentlightning.types import RequestError

T = TypeVar("T")
Receive = Callable[[], Awaitable[Any]]
Headers = Iterable[tuple[bytes, bytes]]


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first header `name` (lower case), or `None`."""
    for key, value in headers:
        if key == name:
            return value
    return None


def shows_key(headers: Headers, key: bytes) -> bool:
    """Whether the caller shows `key` as `Authorization: Bearer ...` or `x-api-key`."""
    scheme, _, bearer = (header(headers, b"authorization") or b"").partition(b" ")
    shown = bearer.strip() if scheme.lower() == b"bearer" else header(headers, b"x-api-key") or b""
    return hmac.compare_digest(shown, key)


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes | None:
    """The request body; `None` if the client went away while sending it.

    Raises:
        RequestError: 413, it is longer than `limit` bytes.
    """
    size = int(header(headers, b"content-length") or b"0")
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


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T | None:
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
