"""The body of a chat completion request, checked.

Called by `service.py`. Every field is honoured, known to have no effect here, or refused by name: a request never
means something else than what it says. The one exception is `response_format`, which is accepted and not enforced.
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
    choice = fields.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise unsupported(
            "tool_choice",
            "must be `auto` or `none`: the native engine can't force a tool call yet. Leave it out and say in the "
            "messages that a tool must be used",
        )
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise bad("tools", "must be a list")
    for at, tool in enumerate(cast(list[Any], tools)):
        _check_tool(f"tools[{at}]", tool)
    return cast(list[Json], tools) if tools and choice == "auto" else None


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
        _warn_unconstrained()


@cache
def _warn_unconstrained() -> None:
    logger.warning(
        "`response_format` is not enforced: the native engine does not constrain decoding yet; check what models answer"
    )
