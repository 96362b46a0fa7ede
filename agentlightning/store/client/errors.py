"""Turns refusals of the server back into the exceptions that the home raised. Inverse of `server.errors`."""

from __future__ import annotations

from typing import Any, NoReturn, cast

import orjson

from agentlightning.types import (
    ConfigError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
    StoreClosedError,
    StoreUnavailableError,
)

_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (NotFoundError, ConflictError, StoreClosedError, StoreUnavailableError, ValueError, TypeError)
}
_BY_STATUS: dict[int, type[Exception]] = {401: ConfigError, 403: ConfigError, 413: ValueError, 422: ValueError}


def refusal(body: bytes) -> dict[str, Any] | None:
    """The server's error body, or `None` if it is not one of ours."""
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or "error_type" not in found or "detail" not in found:
        return None
    return cast("dict[str, Any]", found)


def raise_refusal(where: str, status: int, body: bytes) -> NoReturn:
    """Raise what an answer with an error status means.

    Raises:
        NotFoundError, ConflictError, LeaseLostError, StoreClosedError, ValueError, TypeError: as the home raised them.
        ConfigError: the token is wrong.
        RuntimeError: the server failed, or it is no store.
    """
    found = refusal(body)
    if found is None:
        raise RuntimeError(
            f"{where} answered {status}, but not as a store does; is the address right? It said: "
            f"{body[:200].decode(errors='replace')}"
        )
    kind, detail = str(found["error_type"]), str(found["detail"])
    if kind == LeaseLostError.__name__:
        raise LeaseLostError(detail, [(str(pair[0]), str(pair[1])) for pair in found.get("attempts") or ()])
    if kind in _KINDS:
        raise _KINDS[kind](detail)
    if status in _BY_STATUS:
        raise _BY_STATUS[status](f"{where}: {detail}")
    raise RuntimeError(f"{where} answered {status}: {detail}")
