"""A chat completion request as a Messages request. Called by `backends/anthropic.py`; calls `messages_turns`.

Every field is translated, known to change nothing in an answer, or refused by name unless it asks for nothing.
"""

from __future__ import annotations

from typing import Any

from ...backend import Json
from .checks import bad, object_at, objects_at
from .messages_turns import messages_turns

DEFAULT_MAX_TOKENS = 4096
"""Anthropic demands a bound where OpenAI needs none."""

_SAME = ("model", "temperature", "top_p", "stream")
_TRANSLATED = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens", "stop"),
        *("user", "response_format", "reasoning_effort", "top_k"),
    }
)
_NO_EFFECT = frozenset(
    {
        *("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("seed", "stream_options"),  # there are no seeds at Anthropic; the gateway itself sets one
    }
)
_NEUTRAL: dict[str, Any] = {"n": 1, "repetition_penalty": 1}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


def messages_request(body: Json) -> Json:
    """The request in the other form, with `stream` as it was.

    Raises:
        RequestError: 400 naming what Anthropic's interface can't express, or what is malformed.
    """
    for name, value in body.items():
        known = name in _SAME or name in _TRANSLATED or name in _NO_EFFECT
        if not known and value and value != _NEUTRAL.get(name):
            raise bad(name, f"is {value!r:.100}; Anthropic's Messages API has nothing like it: leave it out")
    sent = {name: body[name] for name in _SAME if body.get(name) is not None}
    system, turns = messages_turns(body.get("messages"))
    if system:
        sent["system"] = system
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    sent |= {"messages": turns, "max_tokens": DEFAULT_MAX_TOKENS if limit is None else limit}
    if body.get("stop"):
        sent["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    if type(body.get("top_k")) is int and body["top_k"] > 0:  # 0 and -1 are vLLM's ways to say none
        sent["top_k"] = body["top_k"]
    if body.get("user"):
        sent["metadata"] = {"user_id": body["user"]}
    return sent | _output(body) | _tools(body)


def _output(body: Json) -> Json:
    config: Json = {}
    effort = body.get("reasoning_effort")
    if effort is not None:
        if effort not in _EFFORTS:
            raise bad("reasoning_effort", f"must be one of {', '.join(_EFFORTS)} for Anthropic, not {effort!r}")
        config["effort"] = effort
    wanted = object_at("response_format", body.get("response_format") or {})
    match wanted.get("type"):
        case None | "text":
            pass
        case "json_schema":
            schema = object_at("response_format.json_schema", wanted.get("json_schema")).get("schema")
            config["format"] = {
                "type": "json_schema",
                "schema": object_at("response_format.json_schema.schema", schema),
            }
        case other:
            raise bad("response_format.type", f"must be `text` or `json_schema` for Anthropic, not {other!r}")
    return {"output_config": config} if config else {}


def _tools(body: Json) -> Json:
    if not body.get("tools"):
        return {}
    found: Json = {"tools": [_tool(where, tool) for where, tool in objects_at("tools", body["tools"])]}
    choice = _choice(body.get("tool_choice"))
    if body.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return found | {"tool_choice": choice} if choice else found


def _tool(where: str, tool: Json) -> Json:
    if tool.get("type") != "function":
        raise bad(f"{where}.type", f"must be `function` for Anthropic, not {tool.get('type')!r}")
    function = object_at(f"{where}.function", tool.get("function"))
    found: Json = {"name": function.get("name")}
    found |= {name: function[name] for name in ("description", "strict") if function.get(name) is not None}
    return found | {"input_schema": function.get("parameters") or {"type": "object", "properties": {}}}


def _choice(choice: Any) -> Json:
    if choice is None:
        return {}
    if isinstance(choice, str) and choice in _CHOICES:
        return {"type": _CHOICES[choice]}
    if isinstance(choice, dict):
        named = object_at("tool_choice", choice)
        if named.get("type") == "function":
            return {"type": "tool", "name": object_at("tool_choice.function", named.get("function")).get("name")}
    raise bad("tool_choice", f"must be `auto`, `required`, `none` or a function for Anthropic, not {choice!r:.100}")
