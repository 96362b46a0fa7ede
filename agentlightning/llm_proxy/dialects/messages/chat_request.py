"""A Messages request as a chat completion request. Called by `interface`; calls `chat_turns`.

Fields are translated, dropped where they change nothing in an answer or are hints that chat completions do not have
(`IGNORED`), or refused by name. Fields that Anthropic does not know go on as they are: the gateway's own (`seed`) and
those that an agent means for its backend.
"""

from __future__ import annotations

from typing import Any

from agentlightning.types import RequestError

from ...backend import Json
from .chat_turns import chat_messages
from .checks import bad, object_at, objects_at

_TRANSLATED = frozenset(
    {"messages", "system", "tools", "tool_choice", "stop_sequences", "metadata", "output_config", "stream_options"}
)
IGNORED = frozenset(
    {
        *("cache_control", "service_tier", "inference_geo", "speed", "diagnostics", "user_profile_id", "workspace_id"),
        *("billing_policy", "fallback_credit_token"),
        "thinking",  # a budget: whether a model behind chat completions thinks is up to its template
    }
)
REFUSED = ("container", "mcp_servers", "context_management", "compaction", "fallbacks")
"""Features that Anthropic's servers run; without them the request would mean something else."""
UNTHREADED = "thread_unsupported_request"
"""Anthropic's code for a conversation that the server can't keep. Told this, its client's tool runner sends the whole
conversation each time."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(body: Json) -> Json:
    """The request in the other form, with `stream` as it was.

    Raises:
        RequestError: 400 naming what chat completions can't express, or what is not of the Messages API's form.
    """
    for name in REFUSED:
        if body.get(name):
            raise bad(name, "is run by Anthropic's servers; this model has it not: leave it out")
    if body.get("thread"):
        problem = "asks the server to keep the conversation, which this one does not: send it whole in `messages`"
        raise RequestError(f"`thread` {problem}", param="thread", code=UNTHREADED)
    chat = {
        name: value
        for name, value in body.items()
        if name not in _TRANSLATED and name not in IGNORED and name not in REFUSED and value is not None
    }
    chat["messages"] = chat_messages(body)
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    chat.update(_user(body.get("metadata")))
    chat.update(_output(body.get("output_config")))
    chat.update(_tools(body))
    return chat


def _user(metadata: Any) -> Json:
    user = object_at("metadata", metadata or {}).get("user_id")
    return {"user": user} if user is not None else {}


def _output(config: Any) -> Json:
    fields = {name: value for name, value in object_at("output_config", config or {}).items() if value is not None}
    found: Json = {}
    if "effort" in fields:
        found["reasoning_effort"] = fields["effort"]
    if "format" in fields:
        wanted = object_at("output_config.format", fields["format"])
        if wanted.get("type") != "json_schema":
            raise bad("output_config.format.type", f"must be `json_schema`, not {wanted.get('type')!r}")
        schema = {"name": "output", "schema": wanted.get("schema"), "strict": True}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    return found


def _tools(body: Json) -> Json:
    tools = body.get("tools")
    if not tools:
        return {}
    found: Json = {"tools": [_tool(where, tool) for where, tool in objects_at("tools", tools)]}
    choice = object_at("tool_choice", body.get("tool_choice") or {})
    if choice:
        found["tool_choice"] = _choice(choice)
    if choice.get("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def _tool(where: str, tool: Json) -> Json:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        raise bad(
            f"{where}.type", f"is {kind!r}, a tool of Anthropic's own; define it with `input_schema`, or leave it out"
        )
    function: Json = {"name": tool.get("name")}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = object_at(f"{where}.input_schema", tool.get("input_schema"))
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _choice(choice: Json) -> str | Json:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise bad("tool_choice.type", f"must be `auto`, `any`, `tool` or `none`, not {kind!r}")
    return _CHOICES[kind]
