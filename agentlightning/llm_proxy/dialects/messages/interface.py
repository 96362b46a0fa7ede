"""Anthropic's Messages API as the gateway's callers speak it. Used by `app` and `gateway` through `Translated`."""

from __future__ import annotations

from typing import Any, cast

import orjson

from agentlightning.types import RequestError

from ...backend import Dialect, Json
from ..base import Translator
from ..openai import wrong
from .answers import chat_answer, messages_answer
from .chat_request import UNTHREADED, chat_request
from .events import EventWriter

_END_TYPES = frozenset({"message_delta", "message_stop"})
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class MessagesInterface:
    """`POST /v1/messages`."""

    name: Dialect = "messages"
    path = "/messages"
    limits: tuple[str, ...] = ("max_tokens",)
    tail = b""

    def check(self, body: Json) -> None:
        """See `Interface`."""
        if not isinstance(body.get("messages"), list):
            raise wrong(body, "messages", "a list of messages")

    def to_chat(self, body: Json) -> Json:
        """See `Translated`."""
        return chat_request(body)

    def from_chat(self, body: Json, response: Json) -> Json:
        """See `Translated`."""
        return messages_answer(body, response)

    def answer_to_chat(self, response: Json) -> Json:
        """See `Interface`."""
        return chat_answer(response)

    def translator(self, body: Json) -> Translator:
        """See `Translated`."""
        return EventWriter(body)

    def frame(self, event: Json) -> bytes:
        """See `Interface`."""
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))

    def is_end(self, event: Json) -> bool:
        """See `Interface`."""
        return event.get("type") in _END_TYPES

    def error(self, error: RequestError) -> dict[str, Any]:
        """See `Interface`. An error that Anthropic's own endpoint sent stays as it is."""
        body = error.to_body()
        found: Any = body.get("error")
        inner = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        if body.get("type") == "error" and isinstance(inner.get("type"), str):
            return body
        message = inner.get("message")
        kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        told: Json = {"type": kind, "message": message if message else error.message}
        if error.code == UNTHREADED:
            told["details"] = {"error_code": UNTHREADED}
        return {"type": "error", "error": told}


MESSAGES = MessagesInterface()
