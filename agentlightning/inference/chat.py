"""The messages of a conversation as chat templates want them.

Called by `chat_request.py` and, for conversations to train on, by `algorithm/sft`; calls `fields.py` and `tools.py`.
Refusals are `RequestError`s with status 400 that name the place.
"""

from __future__ import annotations

from typing import Any, cast

from agentlightning.types import RequestError

from .fields import Json, as_object, bad
from .tools import read_object

ROLES = ("system", "developer", "user", "assistant", "tool")


def messages_for_template(messages: Any) -> list[Json]:
    """Check the messages of a conversation and bring them into the form that chat templates want.

    Args:
        messages: OpenAI's messages: text content as a string or in parts, tool calls with arguments as JSON text.

    Returns:
        New messages: contents are strings, `developer` is `system`, arguments are objects where they parse.

    Raises:
        RequestError: a message is not of OpenAI's form or holds something other than text.
    """
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "must be a list of at least one message")
    return [_message(f"messages[{at}]", message) for at, message in enumerate(cast(list[Any], messages))]


def _message(where: str, value: Any) -> Json:
    message = {name: field for name, field in as_object(where, value).items() if field is not None}
    role = message.get("role")
    if role not in ROLES:
        raise bad(f"{where}.role", f"is {role!r}; it must be one of {', '.join(ROLES)}")
    if message.get("function_call"):
        raise bad(f"{where}.function_call", "is no longer in use: send `tool_calls`")
    checked: Json = {"role": "system" if role == "developer" else role}
    if role == "assistant" and message.get("tool_calls"):
        checked["content"] = _content(where, message.get("content", ""))
        checked["tool_calls"] = _tool_calls(f"{where}.tool_calls", message["tool_calls"])
        return checked
    if "content" not in message:
        raise bad(f"{where}.content", "is missing")
    checked["content"] = _content(where, message["content"])
    if role == "tool":
        if not isinstance(message.get("tool_call_id"), str):
            raise bad(f"{where}.tool_call_id", "must be the id of the tool call that this message answers")
        checked["tool_call_id"] = message["tool_call_id"]
    if "name" in message:
        checked["name"] = message["name"]
    return checked


def _content(where: str, content: Any) -> str:
    """The text of a message; content in parts must be all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad(f"{where}.content", "must be a string or a list of text parts")
    return "".join(_part(f"{where}.content[{at}]", part) for at, part in enumerate(cast(list[Any], content)))


def _part(where: str, value: Any) -> str:
    part = as_object(where, value)
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        raise RequestError(
            f"`{where}` is of type {kind!r}, and the native engine reads text only: leave the part out, or ask a model "
            "behind an endpoint that reads such parts",
            param=where,
            code="unsupported_content",
        )
    text = part.get(kind)
    if not isinstance(text, str):
        raise bad(where, f"must have a string as its `{kind}`")
    return text


def _tool_calls(where: str, calls: Any) -> list[Json]:
    if not isinstance(calls, list):
        raise bad(where, "must be a list")
    checked: list[Json] = []
    for at, value in enumerate(cast(list[Any], calls)):
        call = as_object(f"{where}[{at}]", value)
        function = as_object(f"{where}[{at}].function", call.get("function"))
        name, arguments = function.get("name"), function.get("arguments", "{}")
        if not isinstance(name, str) or not isinstance(arguments, str | dict):
            raise bad(f"{where}[{at}].function", "must have a `name` and `arguments`, a string of JSON")
        read: Json = {"name": name, "arguments": _arguments(cast("str | Json", arguments))}
        checked.append({"id": call.get("id", ""), "type": "function", "function": read})
    return checked


def _arguments(arguments: str | Json) -> str | Json:
    # Templates write arguments as JSON. A string would be written as a JSON string, with its quotes escaped, and the
    # next prompt would not begin with the tokens that the model sampled.
    if isinstance(arguments, dict):
        return arguments
    value = read_object(arguments)
    return arguments if value is None else value
