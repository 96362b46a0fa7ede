"""Reads fields of a Responses request, and refuses them by name.

Used by the other files of this folder.
"""

from __future__ import annotations

from typing import Any, cast

from agentlightning.types import RequestError

from ...backend import Json
from ..openai import json_type


def wrong(param: str, problem: str, code: str = "invalid_type") -> RequestError:
    """The refusal of the field `param`; `problem` goes on after its name."""
    return RequestError(f"`{param}` {problem}", param=param, code=code)


def unsupported(param: str, problem: str) -> RequestError:
    """The refusal of what the API knows and chat completions can't express."""
    return wrong(param, problem, "unsupported_parameter")


def as_text(value: Any, param: str) -> str:
    """`value`, which must be a string."""
    if not isinstance(value, str):
        raise wrong(param, f"must be a string, not {json_type(value)}")
    return value


def as_object(value: Any, param: str) -> Json:
    """`value`, which must be an object."""
    if not isinstance(value, dict):
        raise wrong(param, f"must be an object, not {json_type(value)}")
    return cast("Json", value)


def as_list(value: Any, param: str) -> list[Any]:
    """`value`, which must be a list."""
    if not isinstance(value, list):
        raise wrong(param, f"must be a list, not {json_type(value)}")
    return cast("list[Any]", value)


def optional_list(body: Json, field: str) -> list[Any]:
    """A field that may be missing or null."""
    value = body.get(field)
    return [] if value is None else as_list(value, field)


def optional_object(body: Json, field: str) -> Json:
    """A field that may be missing or null."""
    value = body.get(field)
    return {} if value is None else as_object(value, field)
