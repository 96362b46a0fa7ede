"""The body of a chat completion request, checked.

Called by `service.py`. Every field is honoured, known to have no effect here, or refused by name: a request never
means something else than what it says. Two exceptions, because clients send them by themselves: a `response_format` and
a forced tool call (`tool_choice`) are accepted and not enforced; the log says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from .chat import messages_for_template
from .fields import Json, as_object, bad, choices, include_usage, optional, read_fields, sampling, unsupported
from .sampling import SamplingParams
from .tools import CLOSE

logger = logging.getLogger(__name__)

HONOURED = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens", "top_logprobs"),
        "response_format",
    }
)
NEUTRAL: dict[str, tuple[Any, ...]] = {"modalities": (["text"],), "functions": ([],), "function_call": ("auto", "none")}


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
    include_usage: bool


def parse_chat_request(body: Any) -> ChatRequest:
    """Check a request body.

    Args:
        body: The JSON value that the client sent.

    Raises:
        RequestError: it is not a request that this engine can serve as it stands; the message names the field.
    """
    fields = read_fields(body, HONOURED, NEUTRAL)
    _check_response_format(fields)
    tools = _tools(fields)
    logprobs = optional(fields, "logprobs", bool) or False
    return ChatRequest(
        model=optional(fields, "model", str),
        messages=messages_for_template(fields.get("messages")),
        tools=tools,
        params=_sampling(fields, tools, logprobs),
        n=choices(fields),
        logprobs=logprobs,
        return_token_ids=optional(fields, "return_token_ids", bool) or False,
        include_usage=include_usage(fields),
    )


def _sampling(fields: Json, tools: list[Json] | None, logprobs: bool) -> SamplingParams:
    limits = [optional(fields, name, int) for name in ("max_completion_tokens", "max_tokens") if name in fields]
    top = optional(fields, "top_logprobs", int) or 0
    if top and not logprobs:
        raise bad("top_logprobs", "needs `logprobs` to be true")
    # One call at most: its closing tag ends the response.
    single = tools is not None and optional(fields, "parallel_tool_calls", bool) is False
    return sampling(fields, max_tokens=limits[0] if limits else None, top_logprobs=top, stop=(CLOSE,) if single else ())


def _tools(fields: Json) -> list[Json] | None:
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise bad("tools", "must be a list")
    for at, tool in enumerate(cast(list[Any], tools)):
        _check_tool(f"tools[{at}]", tool)
    choice = _tool_choice(fields, {tool["function"]["name"] for tool in cast(list[Json], tools)})
    return cast(list[Json], tools) if tools and choice != "none" else None


def _tool_choice(fields: Json, names: set[str]) -> str:
    """`auto`, `none`, or `required`, which a named tool counts as."""
    choice = fields.get("tool_choice", "auto")
    if choice in ("auto", "none"):
        return choice
    if choice != "required":
        name = as_object("tool_choice.function", as_object("tool_choice", choice).get("function")).get("name")
        if name not in names:
            raise bad("tool_choice", f"names {name!r}, which is not among `tools`")
    elif not names:
        raise bad("tool_choice", "is `required`, and there are no `tools`")
    _warn_unconstrained("tool_choice")
    return "required"


def _check_tool(where: str, tool: Any) -> None:
    function = as_object(where, tool).get("function")
    if tool.get("type") != "function":
        raise bad(f"{where}.type", "must be `function`")
    function = as_object(f"{where}.function", function)
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise bad(f"{where}.function.name", "must be a string that is not empty")
    as_object(f"{where}.function.parameters", function.get("parameters") or {})


def _check_response_format(fields: Json) -> None:
    kind = (optional(fields, "response_format", dict) or {"type": "text"}).get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise unsupported("response_format", "must have the `type` `text`, `json_object` or `json_schema`")
    if kind != "text":
        _warn_unconstrained("response_format")


@cache
def _warn_unconstrained(field: str) -> None:
    logger.warning(
        "`%s` is not enforced: the native engine does not constrain decoding yet; check what models answer", field
    )
