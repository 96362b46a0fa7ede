"""The Responses API as the gateway's callers speak it. Used by `dialects/__init__`; the work is done beside it.

`requests` and `items` turn a request to chat, `answers` a chat completion to a Response, `completions` a Response to
a chat completion, `events` a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agentlightning.types import RequestError

from ...backend import Dialect, Json
from ..openai import openai_error
from .answers import response_object
from .completions import chat_completion
from .events import ResponsesTranslator
from .requests import chat_request, check_request

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


@dataclass(frozen=True, slots=True)
class ResponsesInterface:
    """See `Translated`. A request must carry the whole conversation: the gateway keeps no state between calls."""

    name: Dialect = "responses"
    path: str = "/responses"
    limits: tuple[str, ...] = ("max_output_tokens",)
    tail: bytes = b""

    def check(self, body: Json) -> None:
        """See `Interface`."""
        check_request(body)

    def to_chat(self, body: Json) -> Json:
        """See `Translated`. Fields that neither API knows are passed on, such as a server's own `top_k`."""
        return chat_request(body)

    def from_chat(self, body: Json, response: Json) -> Json:
        """See `Translated`."""
        return response_object(body, response)

    def answer_to_chat(self, response: Json) -> Json:
        """See `Interface`."""
        return chat_completion(response)

    def translator(self, body: Json) -> ResponsesTranslator:
        """See `Translated`."""
        return ResponsesTranslator(body)

    def frame(self, event: Json) -> bytes:
        """See `Interface`. An error's body becomes an `error` event."""
        if event.get("type") in (None, "error"):
            event = _error_event(event)
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))

    def is_end(self, event: Json) -> bool:
        """See `Interface`."""
        return event.get("type") in _ENDS

    def error(self, error: RequestError) -> dict[str, Any]:
        """See `Interface`."""
        return openai_error(error)


def _error_event(body: Json) -> Json:
    """`error` is what makes OpenAI's clients raise; the fields beside it are those of the documented event."""
    error: Json = body["error"]
    fields = {name: error.get(name) for name in ("code", "message", "param")}
    # Where in the stream it stands is not known here; the numbers serve to resume a stream, which this one can't be.
    return {"type": "error", "sequence_number": 0, **fields, "error": error}


RESPONSES = ResponsesInterface()
