"""The messages of a Messages request as chat messages. Called by `chat_request`.

An earlier answer that comes back in blocks becomes the one chat message that it was made from: training joins calls
on exact tokens, so the next prompt must be rendered from the same message. As Anthropic says, neighbouring turns of one
role are one turn.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from agentlightning.types import RequestError

from ...backend import Json
from .answers import REASONING_FIELDS, write_arguments
from .checks import bad, object_at, objects_at

_BILLING = "x-anthropic-billing-header"
_ROLES = ("system", "user", "assistant")


class _Block(NamedTuple):
    where: str
    fields: Json

    @property
    def kind(self) -> Any:
        return self.fields.get("type")

    def get(self, name: str) -> str:
        """A field that must be a string."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise bad(f"{self.where}.{name}", "must be a string")
        return value


def chat_messages(body: Json) -> list[Json]:
    """The chat messages that `system` and `messages` stand for.

    Raises:
        RequestError: 400 naming a part that chat completions can't express, or that is malformed.
    """
    found: list[Json] = []
    # Claude Code's first block holds a hash of the request. In the prompt it would make every turn begin differently.
    system = [block for block in _blocks("system", body.get("system") or []) if not _is_billing(block)]
    if system:
        found.append({"role": "system", "content": _content(system)})
    turns = _turns(body.get("messages"))
    if turns and turns[-1][0] == "assistant":
        raise bad(
            "messages",
            "ends with the role `assistant`; chat completions can't continue an answer that was begun: end with `user`",
        )
    for role, blocks in turns:
        if role == "assistant":
            found.append(_assistant(blocks))
        elif role == "user":
            found.extend(_user(blocks))
        else:
            found.append({"role": "system", "content": _content(blocks)})
    return found


def _is_billing(block: _Block) -> bool:
    text = block.fields.get("text")
    return isinstance(text, str) and text.startswith(_BILLING)


def _turns(messages: Any) -> list[tuple[str, list[_Block]]]:
    turns: list[tuple[str, list[_Block]]] = []
    for where, message in objects_at("messages", messages):
        role = message.get("role")
        if role not in _ROLES:
            raise bad(f"{where}.role", f"must be `user`, `assistant` or `system`, not {role!r}")
        blocks = _blocks(f"{where}.content", message.get("content"))
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return turns


def _blocks(where: str, content: Any) -> list[_Block]:
    if isinstance(content, str):
        return [_Block(where, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise bad(where, "must be a string or a list of content blocks")
    return [_Block(*found) for found in objects_at(where, cast("list[Any]", content))]


def _assistant(blocks: list[_Block]) -> Json:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    field = REASONING_FIELDS[0]
    for block in blocks:
        match block.kind:
            case "text":
                texts.append(block.get("text"))
            case "thinking":
                thoughts.append(block.get("thinking"))
                field = next((name for name in REASONING_FIELDS if name == block.fields.get("signature")), field)
            case "redacted_thinking":
                pass  # encrypted for Anthropic's servers
            case "tool_use":
                calls.append(_tool_call(block))
            case _:
                raise _unknown(block, "an assistant's turn", "text, thinking and tool_use")
    text = "".join(texts)
    message: Json = {"role": "assistant", "content": text if text or not calls else None}
    if thoughts:
        message[field] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: _Block) -> Json:
    given = object_at(f"{block.where}.input", block.fields.get("input"))
    function = {"name": block.get("name"), "arguments": write_arguments(given)}
    return {"id": block.get("id"), "type": "function", "function": function}


def _user(blocks: list[_Block]) -> list[Json]:
    found = [_tool_message(block) for block in blocks if block.kind == "tool_result"]
    others = [block for block in blocks if block.kind != "tool_result"]
    if others or not found:
        found.append({"role": "user", "content": _content(others)})
    return found


def _tool_message(block: _Block) -> Json:
    content = _content(_blocks(f"{block.where}.content", block.fields.get("content") or []))
    if block.fields.get("is_error"):
        content = _as_error(content)
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def _as_error(content: str | list[Json]) -> str | list[Json]:
    """Chat messages have no mark for a tool that failed, so the text has to tell it."""
    if isinstance(content, str):
        return content if content.lower().startswith("error") else f"Error: {content}"
    return [{"type": "text", "text": "Error:"}, *content]


def _content(blocks: list[_Block]) -> str | list[Json]:
    parts = [_part(block) for block in blocks]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts or ""


def _part(block: _Block) -> Json:
    if block.kind == "text":
        return {"type": "text", "text": block.get("text")}
    if block.kind == "image":
        return {"type": "image_url", "image_url": {"url": _image_url(block)}}
    raise _unknown(block, "a turn of the user, a system prompt or a tool's result", "text and image")


def _image_url(block: _Block) -> str:
    where = f"{block.where}.source"
    source = _Block(where, object_at(where, block.fields.get("source")))
    if source.kind == "url":
        return source.get("url")
    if source.kind == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    raise bad(f"{where}.type", f"must be `base64` or `url`, not {source.kind!r}")


def _unknown(block: _Block, place: str, known: str) -> RequestError:
    return bad(f"{block.where}.type", f"is {block.kind!r}; in {place} this model reads {known} only")
