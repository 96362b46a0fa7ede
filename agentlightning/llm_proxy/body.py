"""Reads and adjusts the JSON body of a request. Called by `gateway`; pure functions.

Only what the gateway itself needs is checked. Everything else is the backend's business and passes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from agentlightning.types import RequestError

from .backend import Json
from .dialects import Interface
from .dialects.openai import json_type, wrong

_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def parse_body(raw: bytes, interface: Interface) -> Json:
    """The request as a dictionary with a `model`, and what its interface asks for.

    Raises:
        RequestError: 400 naming what is wrong.
    """
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise RequestError(f"the request body must be a JSON object, not {json_type(body)}", code="invalid_json")
    found = cast(Json, body)
    if not isinstance(found.get("model"), str):
        raise wrong(found, "model", "a string: the name of a model that `GET /v1/models` lists")
    if not isinstance(found.get("stream", False), (bool, type(None))):
        raise wrong(found, "stream", "true or false")
    interface.check(found)
    return found


def force_sampling(body: Json, forced: Mapping[str, Any], limits: Sequence[str]) -> None:
    """Put `forced` over the agent's own sampling parameters, in place.

    `max_tokens`, under any of its names, is an upper bound: an agent that asks for less gets less.

    Args:
        body: The request.
        forced: By OpenAI's chat names; what is `None` is taken out of the request.
        limits: How the request's interface calls the bound, see `Interface.limits`.
    """
    for name, value in forced.items():
        if value is None:
            body.pop(name, None)
            continue
        if name not in _BOUNDS:
            body[name] = value
            continue
        for limit in [given for given in limits if body.get(given) is not None] or limits[:1]:
            asked = body.get(limit)
            body[limit] = asked if type(asked) is int and 0 <= asked < value else value  # -1 would be no bound
