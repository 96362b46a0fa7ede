"""Chat messages as the turns and the system prompt of a Messages request. Called by `messages_request`.

Anthropic wants turns of `user` and `assistant` that alternate, the results of all tools of a turn together in the next
one, and no empty text. What a model thought does not go back: Anthropic takes only thoughts that it has signed.
"""

from __future__ import annotations

import re
from typing import Any, cast

from ...backend import Json
from .answers import read_arguments
from .checks import bad, object_at, objects_at

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")


def messages_turns(messages: Any) -> tuple[list[Json], list[Json]]:
    """The system prompt's blocks and the turns.

    Raises:
        RequestError: 400 naming a part that Anthropic's interface can't express, or that is malformed.
    """
    system: list[Json] = []
    turns: list[Json] = []
    for where, message in objects_at("messages", messages):
        match message.get("role"):
            case "system" | "developer":
                system += _filled(_blocks(f"{where}.content", message.get("content")))
            case "user":
                _add(turns, "user", _blocks(f"{where}.content", message.get("content")))
            case "assistant":
                _add(turns, "assistant", _assistant(where, message))
            case "tool":
                _add(turns, "user", [_tool_result(where, message)])
            case role:
                raise bad(
                    f"{where}.role", f"must be `system`, `developer`, `user`, `assistant` or `tool`, not {role!r}"
                )
    return system, turns


def _add(turns: list[Json], role: str, blocks: list[Json]) -> None:
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    elif blocks:
        turns.append({"role": role, "content": blocks})


def _assistant(where: str, message: Json) -> list[Json]:
    content = message.get("content") or message.get("refusal") or ""
    blocks = _filled(_blocks(f"{where}.content", content))
    calls = objects_at(f"{where}.tool_calls", message.get("tool_calls") or [])
    return blocks + [_tool_use(at, call) for at, call in calls]


def _tool_use(where: str, call: Json) -> Json:
    function = object_at(f"{where}.function", call.get("function"))
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        raise bad(f"{where}.function.arguments", "must be a string of JSON")
    given = {"id": call.get("id"), "name": function.get("name")}
    return {"type": "tool_use", **given, "input": read_arguments(arguments)}


def _tool_result(where: str, message: Json) -> Json:
    blocks = _filled(_blocks(f"{where}.content", message.get("content")))
    plain = len(blocks) == 1 and blocks[0]["type"] == "text"
    content = blocks[0]["text"] if plain else blocks
    return {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": content}


def _filled(blocks: list[Json]) -> list[Json]:
    return [block for block in blocks if block.get("text") != ""]


def _blocks(where: str, content: Any) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise bad(where, "must be a string or a list of parts")
    return [_block(at, part) for at, part in objects_at(where, cast("list[Any]", content))]


def _block(where: str, part: Json) -> Json:
    kind = part.get("type")
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return {"type": "text", "text": part[kind]}
    if kind == "image_url":
        url = object_at(f"{where}.image_url", part.get("image_url")).get("url")
        return {"type": "image", "source": _source(f"{where}.image_url.url", url)}
    raise bad(where, f"of type {kind!r} must be a text or an `image_url` for Anthropic")


def _source(where: str, url: Any) -> Json:
    if isinstance(url, str):
        found = _DATA_URL.match(url)
        if found:
            return {"type": "base64", "media_type": found[1], "data": url[found.end() :]}
        if url.startswith(("https://", "http://")):
            return {"type": "url", "url": url}
    raise bad(where, "must be a web address or a `data:<type>;base64,` URL")
