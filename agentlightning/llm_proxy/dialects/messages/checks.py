"""Refusals of parts of a request. Used by the other files of this folder."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.types import RequestError

from ...backend import Json


def bad(where: str, problem: str) -> RequestError:
    """The refusal of the part at `where`, as in `messages[2].content[0]`."""
    return RequestError(f"`{where}` {problem}", param=where)


def object_at(where: str, value: Any) -> Json:
    """`value`, which must be an object.

    Raises:
        RequestError: 400, it is none.
    """
    if not isinstance(value, dict):
        raise bad(where, "must be an object")
    return cast("Json", value)


def objects_at(where: str, value: Any) -> list[tuple[str, Json]]:
    """The objects of a list, each with its place.

    Raises:
        RequestError: 400, it is no list of objects.
    """
    if not isinstance(value, list):
        raise bad(where, "must be a list")
    found = enumerate(cast("list[Any]", value))
    return [(f"{where}[{at}]", object_at(f"{where}[{at}]", one)) for at, one in found]
