"""The body of a chat completion request, checked, and its messages as chat templates want them.

Called by `service.py` and, for conversations to train on, by `algorithm/sft`. Every field is honoured, known to have
no effect here, or refused by name: a request never means something else than what it says. Refusals are
`RequestError`s with status 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from agentlightning.types import RequestError

from .sampling import SamplingParams
from .tools import read_object

MAX_CHOICES = 128
"""Most responses of one request (`n`)."""
ROLES = ("system", "developer", "user", "assistant", "tool")
HONOURED = frozenset(
    {
        *("model", "messages", "tools", "tool_choice", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
        *("stop", "stop_token_ids", "seed", "n", "logprobs", "return_token_ids"),
    }
)
NO_EFFECT = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
"""Fields that OpenAI's servers use for accounting, routing or caching; they don't change the answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True,),
}
"""Fields that are not supported yet, with the values that ask for nothing."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a chat completion request asks for."""

    model: str | None
    messages: list[Json]
    """As chat templates want them: every content a string, the arguments of tool calls objects where they parse."""
    tools: list[Json] | None
    """`None`: none are offered, and tool calls in the response are not looked for."""
    params: SamplingParams
    n: int
    logprobs: bool
    return_token_ids: bool


def parse_chat_request(body: Any) -> ChatRequest:
    """Check a request body.

    Args:
        body: The JSON value that the client sent.

    Raises:
        RequestError: it is not a request that this engine can serve as it stands; the message names the field.
    """
    if not isinstance(body, dict):
        raise _bad("body", "must be a JSON object")
    fields = {name: value for name, value in cast(Json, body).items() if value is not None}
    _refuse_unsupported(fields)
    return ChatRequest(
        model=_optional(fields, "model", str),
        messages=messages_for_template(fields.get("messages")),
        tools=_tools(fields),
        params=_sampling(fields),
        n=_choices(fields),
        logprobs=_optional(fields, "logprobs", bool) or False,
        return_token_ids=_optional(fields, "return_token_ids", bool) or False,
    )


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
        raise _bad("messages", "must be a list of at least one message")
    return [_message(f"messages[{at}]", message) for at, message in enumerate(cast(list[Any], messages))]


def _bad(param: str, problem: str) -> RequestError:
    return RequestError(f"`{param}` {problem}", param=param)


def _refuse_unsupported(fields: Json) -> None:
    for name, value in fields.items():
        if name in HONOURED or name in NO_EFFECT or value in NEUTRAL.get(name, ()):
            continue
        raise RequestError(
            f"`{name}` is not supported by the native engine yet: leave it out",
            param=name,
            code="unsupported_parameter",
        )


def _optional(fields: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """A field of a type, `None` where it is absent. Whole numbers count as floats, booleans never as numbers."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        names = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}
        raise _bad(name, f"must be {names[kind]}, not {type(value).__name__}")
    try:
        return kind(value)
    except OverflowError as error:
        raise _bad(name, "is too large") from error


def _sampling(fields: Json) -> SamplingParams:
    limits = [_optional(fields, name, int) for name in ("max_completion_tokens", "max_tokens") if name in fields]
    temperature, top_p = _optional(fields, "temperature", float), _optional(fields, "top_p", float)
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        max_tokens=limits[0] if limits else None,
        stop=tuple(_list_of(fields, "stop", str)),
        stop_token_ids=tuple(_list_of(fields, "stop_token_ids", int)),
        seed=_optional(fields, "seed", int),
    )


def _list_of(fields: Json, name: str, kind: type[Any]) -> list[Any]:
    value = fields.get(name, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or any(type(item) is not kind for item in cast(list[Any], values)):
        raise _bad(name, "must be a string or a list of strings" if kind is str else "must be a list of whole numbers")
    return cast(list[Any], values)


def _choices(fields: Json) -> int:
    n = _optional(fields, "n", int)
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise _bad("n", f"is {n}; it must be from 1 to {MAX_CHOICES}")
    return n or 1


def _tools(fields: Json) -> list[Json] | None:
    choice = fields.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise RequestError(
            "`tool_choice` must be `auto` or `none`: the native engine can't force a tool call yet",
            param="tool_choice",
            code="unsupported_parameter",
        )
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise _bad("tools", "must be a list")
    for at, tool in enumerate(cast(list[Any], tools)):
        _check_tool(f"tools[{at}]", tool)
    return cast(list[Json], tools) if tools and choice == "auto" else None


def _check_tool(where: str, tool: Any) -> None:
    function = _object(where, tool).get("function")
    if tool.get("type") != "function":
        raise _bad(f"{where}.type", "must be `function`")
    function = _object(f"{where}.function", function)
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise _bad(f"{where}.function.name", "must be a string that is not empty")
    _object(f"{where}.function.parameters", function.get("parameters") or {})


def _object(where: str, value: Any) -> Json:
    if not isinstance(value, dict):
        raise _bad(where, "must be an object")
    return cast(Json, value)


def _message(where: str, value: Any) -> Json:
    message = {name: field for name, field in _object(where, value).items() if field is not None}
    role = message.get("role")
    if role not in ROLES:
        raise _bad(f"{where}.role", f"is {role!r}; it must be one of {', '.join(ROLES)}")
    if message.get("function_call"):
        raise _bad(f"{where}.function_call", "is no longer in use: send `tool_calls`")
    checked: Json = {"role": "system" if role == "developer" else role}
    if role == "assistant" and message.get("tool_calls"):
        checked["content"] = _content(where, message.get("content", ""))
        checked["tool_calls"] = _tool_calls(f"{where}.tool_calls", message["tool_calls"])
        return checked
    if "content" not in message:
        raise _bad(f"{where}.content", "is missing")
    checked["content"] = _content(where, message["content"])
    if role == "tool":
        if not isinstance(message.get("tool_call_id"), str):
            raise _bad(f"{where}.tool_call_id", "must be the id of the tool call that this message answers")
        checked["tool_call_id"] = message["tool_call_id"]
    if "name" in message:
        checked["name"] = message["name"]
    return checked


def _content(where: str, content: Any) -> str:
    """The text of a message; content in parts must be all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad(f"{where}.content", "must be a string or a list of text parts")
    texts: list[str] = []
    for at, value in enumerate(cast(list[Any], content)):
        part = _object(f"{where}.content[{at}]", value)
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _bad(f"{where}.content[{at}]", "must be a text part; the native engine reads nothing else yet")
        texts.append(part["text"])
    return "".join(texts)


def _tool_calls(where: str, calls: Any) -> list[Json]:
    if not isinstance(calls, list):
        raise _bad(where, "must be a list")
    checked: list[Json] = []
    for at, value in enumerate(cast(list[Any], calls)):
        call = _object(f"{where}[{at}]", value)
        function = _object(f"{where}[{at}].function", call.get("function"))
        name, arguments = function.get("name"), function.get("arguments", "{}")
        if not isinstance(name, str) or not isinstance(arguments, str | dict):
            raise _bad(f"{where}[{at}].function", "must have a `name` and `arguments`, a string of JSON")
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
