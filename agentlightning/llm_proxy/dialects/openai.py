"""OpenAI's chat completions, completions and embeddings: the dialects that backends speak themselves.

Used by `dialects/__init__`. Only what the gateway itself needs is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import orjson

from agentlightning.types import RequestError

from ..backend import Dialect, Json


@dataclass(frozen=True, slots=True)
class OpenAIInterface:
    """One of OpenAI's older interfaces: chunks without names, `[DONE]` at the end of a stream."""

    name: Dialect
    path: str
    limits: tuple[str, ...]
    field: str
    """What the request is about."""
    tail: bytes = b"data: [DONE]\n\n"

    def check(self, body: Json) -> None:
        """See `Interface`."""
        if self.name == "chat":
            if not isinstance(body.get("messages"), list):
                raise wrong(body, "messages", "a list of messages")
        elif self.field not in body:
            raise wrong(body, self.field, "text")

    def answer_to_chat(self, response: Json) -> Json:
        """See `Interface`."""
        if self.name != "completions":
            return response
        return {**response, "choices": [_as_chat(choice) for choice in response["choices"]]}

    def frame(self, event: Json) -> bytes:
        """See `Interface`."""
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def is_end(self, event: Json) -> bool:
        """See `Interface`."""
        choices: list[Json] = event.get("choices") or []
        return all(choice.get("finish_reason") is not None for choice in choices)

    def error(self, error: RequestError) -> dict[str, Any]:
        """See `Interface`: an object with `error`, whatever an upstream of another kind had sent."""
        return openai_error(error)


CHAT = OpenAIInterface("chat", "/chat/completions", ("max_tokens", "max_completion_tokens"), "messages")
COMPLETIONS = OpenAIInterface("completions", "/completions", ("max_tokens",), "prompt")
EMBEDDINGS = OpenAIInterface("embeddings", "/embeddings", (), "input")


def _as_chat(choice: Json) -> Json:
    return {**choice, "message": {"role": "assistant", "content": choice.get("text")}}


def openai_error(error: RequestError) -> dict[str, Any]:
    """OpenAI's error object; that of an endpoint stays as it is if it is one."""
    body = error.to_body()
    found: Any = body.get("error")
    told = isinstance(found, dict) and isinstance(cast(Json, found).get("message"), str)
    return body if told else RequestError.to_body(error)


def wrong(body: Json, field: str, expected: str) -> RequestError:
    """The refusal of a field that is missing or of another type."""
    found = f"not {json_type(body[field])}" if field in body else "and is missing"
    return RequestError(f"`{field}` must be {expected}, {found}", param=field, code="invalid_type")


def json_type(value: Any) -> str:
    """What JSON calls the type of a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
