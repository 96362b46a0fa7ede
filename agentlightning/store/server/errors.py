"""Which status and body an error gets. `client.errors` turns them back into exceptions."""

from __future__ import annotations

import logging

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agentlightning.types import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    RequestError,
    StoreClosedError,
    StoreUnavailableError,
)

from ..wire import dump
from .call import Answer
from .router import UnknownPath, WrongMethod

logger = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (StoreClosedError, 410),
    (StoreUnavailableError, 503),
    (UnknownPath, 404),
    (WrongMethod, 405),
    (ValueError, 422),
    (TypeError, 422),
)


def answer_of(error: Exception) -> Answer:
    """The answer to a request that raised `error`. What is nobody's fault but ours is logged and gets 500."""
    if isinstance(error, ValidationError):
        return _refusal(422, "ValueError", "; ".join(map(_sentence, error.errors(include_url=False)[:5])))
    if isinstance(error, RequestError):
        return _refusal(error.status, "RequestError", error.message)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            attempts = error.attempts if isinstance(error, LeaseLostError) else None
            return _refusal(status, type(error).__name__, str(error), attempts)
    logger.error("a request failed", exc_info=error)
    return _refusal(500, type(error).__name__, f"{type(error).__name__}: {error}")


def _refusal(status: int, kind: str, detail: str, attempts: list[tuple[str, str]] | None = None) -> Answer:
    body: dict[str, object] = {"detail": detail, "error_type": kind}
    if attempts is not None:
        body["attempts"] = attempts
    return Answer(status, dump(body))


def _sentence(error: ErrorDetails) -> str:
    """One of pydantic's errors: the field, its value, what is wrong or what to give instead."""
    field = ".".join(map(str, error["loc"])) or "body"
    if error["type"] == "literal_error":
        valid = str(error.get("ctx", {}).get("expected", "")).replace(" or ", ", ").replace("'", "")
        return f"`{field}` is {error['input']!r:.100}; give one of {valid}"
    if error["type"] == "missing":
        return f"`{field}` is missing"
    return f"`{field}` is {error['input']!r:.100}: {error['msg']}"
