"""A Responses request as a chat completion request. Called by `interface`; its input is read by `items`."""

from __future__ import annotations

from typing import Any

from ...backend import Json
from ..openai import wrong as wrong_type
from .checks import as_list, as_object, as_text, optional_list, optional_object, unsupported, wrong
from .items import chat_messages

LOGPROBS = "message.output_text.logprobs"
_WHOLE = "send the whole conversation in `input`: the gateway keeps no state between calls"
_STATEFUL = {
    "previous_response_id": f"refers to an answer that is not kept; {_WHOLE}",
    "conversation": f"refers to a conversation that is not kept; {_WHOLE}",
    "prompt": "refers to a stored prompt, and none are stored; send its text in `instructions` and `input`",
    "context_management": f"asks the server to compact the conversation, which is not done here; {_WHOLE}",
}
_TRANSLATED = frozenset(
    {
        *("input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice"),
        *("parallel_tool_calls", "top_logprobs", "include"),
    }
)
# What OpenAI's servers use for storing and billing, or what has no meaning where no built-in tool runs. `truncation`
# allows the server to leave out items; no backend here does.
_DROPPED = frozenset(
    {
        *("store", "metadata", "truncation", "max_tool_calls", "stream_options", "background"),
        *("prompt_cache_options", "access_programs", "image"),
    }
)


def check_request(body: Json) -> None:
    """See `Interface.check`: an input of its own, and nothing that needs earlier calls or a later one."""
    for field, problem in _STATEFUL.items():
        if body.get(field):
            raise unsupported(field, problem)
    if body.get("background"):
        raise unsupported("background", "is not served: no call is answered later; leave it out or set it to false")
    if body.get("n") not in (None, 1):
        raise unsupported("n", "does not exist in the Responses API: an answer has one choice; leave it out")
    if not isinstance(body.get("input"), (str, list)):
        raise wrong_type(body, "input", "a string or a list of items")


def chat_request(body: Json) -> Json:
    """See `Translated.to_chat`."""
    check_request(body)
    kept = {
        name: value
        for name, value in body.items()
        if name not in _TRANSLATED and name not in _DROPPED and name not in _STATEFUL and value is not None
    }
    return {**kept, "messages": _messages(body), **_tools(body), **_limit(body), **_form(body), **_logprobs(body)}


def _messages(body: Json) -> list[Json]:
    found: list[Json] = []
    if body.get("instructions") is not None:
        found.append({"role": "system", "content": as_text(body["instructions"], "instructions")})
    given = body["input"]
    found += [{"role": "user", "content": given}] if isinstance(given, str) else chat_messages(given)
    if not found:
        raise wrong("input", "is empty; send a string or at least one item", "invalid_value")
    return found


def _limit(body: Json) -> Json:
    # Reasoning models of OpenAI want `max_completion_tokens`, but OpenAI's own servers speak the Responses API. Of the
    # others each takes `max_tokens`, and not each the newer name.
    return {} if body.get("max_output_tokens") is None else {"max_tokens": body["max_output_tokens"]}


def _form(body: Json) -> Json:
    text, effort = optional_object(body, "text"), optional_object(body, "reasoning").get("effort")
    found: Json = {} if effort is None else {"reasoning_effort": effort}
    if text.get("verbosity") is not None:
        found["verbosity"] = text["verbosity"]
    if text.get("format") is not None:
        found |= _response_format(as_object(text["format"], "text.format"))
    return found


def _response_format(form: Json) -> Json:
    kind = form.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind != "json_schema":
        raise wrong("text.format.type", "must be `text`, `json_object` or `json_schema`", "invalid_value")
    schema = _given(form, "name", "description", "schema", "strict")
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _logprobs(body: Json) -> Json:
    top = body.get("top_logprobs")
    if not wants_logprobs(body):
        return {}
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}


def wants_logprobs(body: Json) -> bool:
    """Whether the answer is to have log-probs: both ways of asking for them count."""
    return bool(body.get("top_logprobs")) or LOGPROBS in optional_list(body, "include")


def _tools(body: Json) -> Json:
    # An empty list, or what is said of tools where there are none, is refused by some servers.
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(optional_list(body, "tools"))]
    choice = _tool_choice(body.get("tool_choice"))
    if not tools:
        return {} if choice in (None, "auto", "none") else {"tool_choice": choice}
    return {"tools": tools} | _given({**body, "tool_choice": choice}, "tool_choice", "parallel_tool_calls")


def _tool(value: Any, where: str) -> Json:
    tool = as_object(value, where)
    if tool.get("type") != "function":
        raise unsupported(
            f"{where}.type",
            f"is {tool.get('type')!r:.100}, which models behind this gateway do not have; offer a tool of the type"
            " `function` and run it in the agent",
        )
    as_text(tool.get("name"), f"{where}.name")
    return {"type": "function", "function": _given(tool, "name", "description", "parameters", "strict")}


def _tool_choice(choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        return choice
    found = as_object(choice, "tool_choice")
    if found.get("type") == "function":
        return _named(found, "tool_choice")
    if found.get("type") == "allowed_tools":
        tools = as_list(found.get("tools"), "tool_choice.tools")
        named = [_named(as_object(tool, f"tool_choice.tools[{at}]"), "tool_choice") for at, tool in enumerate(tools)]
        return {"type": "allowed_tools", "allowed_tools": {"mode": found.get("mode", "auto"), "tools": named}}
    raise unsupported(
        "tool_choice.type",
        f"is {found.get('type')!r:.100}; only `function` and `allowed_tools` can be asked for here",
    )


def _named(tool: Json, where: str) -> Json:
    if tool.get("type") != "function":
        raise unsupported(where, f"names a tool of the type {tool.get('type')!r:.100}; only `function` is served")
    return {"type": "function", "function": {"name": as_text(tool.get("name"), f"{where}.name")}}


def _given(fields: Json, *names: str) -> Json:
    return {name: fields[name] for name in names if fields.get(name) is not None}
