"""Reads and adjusts the JSON body of a chat completion request. Called by `gateway`; pure functions.

Only what the gateway itself needs is checked. Everything else is the backend's business and passes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from agentlightning.types import RequestError

_LIMITS = ("max_tokens", "max_completion_tokens")


def parse_body(raw: bytes) -> dict[str, Any]:
    """The request as a dictionary with a `model` and a list of `messages`.

    Raises:
        RequestError: 400 naming what is wrong.
    """
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise RequestError(f"the request body must be a JSON object, not {_json_type(body)}", code="invalid_json")
    if not isinstance(body.get("model"), str):
        raise _wrong("model", "a string: the name of a model that `GET /v1/models` lists", body)
    if not isinstance(body.get("messages"), list):
        raise _wrong("messages", "a list of messages", body)
    if body.get("stream"):
        raise RequestError(
            "`stream` is not served by this gateway; leave it out or set it to false", param="stream", code="no_stream"
        )
    return body


def _wrong(field: str, expected: str, body: dict[str, Any]) -> RequestError:
    found = f"not {_json_type(body[field])}" if field in body else "and is missing"
    return RequestError(f"`{field}` must be {expected}, {found}", param=field, code="invalid_type")


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def force_sampling(body: dict[str, Any], forced: Mapping[str, Any]) -> None:
    """Put `forced` over the agent's own sampling parameters, in place.

    `max_tokens` is an upper bound: an agent that asks for less, as `max_tokens` or `max_completion_tokens`, gets less.
    """
    for name, value in forced.items():
        asked = [limit for limit in _LIMITS if type(body.get(limit)) is int] if name == "max_tokens" else []
        if asked:
            body.update({limit: min(body[limit], value) for limit in asked})
        else:
            body[name] = value
