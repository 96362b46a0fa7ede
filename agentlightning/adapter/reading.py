"""What the spans of LLM calls and agents say, in our gateway's attributes or in those of other instrumentations.

Called by `tree`, `triplet`, `messages` and `trajectory`. Our gateway keeps tokens on the span itself and messages as
JSON (`gen_ai.input.messages`); others flatten messages to `gen_ai.prompt.0.role` and put token ids into attributes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import orjson

from agentlightning.semconv import (
    GEN_AI_INPUT_MESSAGES,
    GEN_AI_OUTPUT_MESSAGES,
    GEN_AI_PROVIDER_NAME,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_ID,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_TOOL_DEFINITIONS,
    LLM_CALL_CHOICE,
    LLM_CALL_NUMBER,
)
from agentlightning.types import Span, TokenCall
from agentlightning.utils.otel import filter_and_unflatten_attributes

from .parts import from_parts

_AGENT_NAMES = ("agent.name", "gen_ai.agent.name", "recipient_agent_type", "langchain.chain.type", "executor.id")
"""OpenAI Agents, OpenTelemetry's convention, AutoGen, LangGraph, agent-framework: the name stands in one attribute."""
_CHAINS = ("langchain", "langgraph")
_PROPERTY = "traceloop.association.properties."
"""Where OpenLLMetry's instrumentation of LangChain keeps what LangGraph says about a step."""
_PREFIX = re.compile(r"^(chatcmpl-|resp_|msg_)")
_RAW = ("llm.hosted_vllm", "llm.openai")
"""Where LiteLLM's proxy keeps the raw request and answer of a vLLM server, as text."""


def agent_name(span: Span) -> str | None:
    """The name of the agent that the span stands for, or `None` if it stands for none."""
    found = span.attributes
    if found.get(GEN_AI_PROVIDER_NAME) in _CHAINS:
        return _chain_agent(found)
    for key in _AGENT_NAMES:
        if (name := found.get(key)) is not None:
            return str(name)
    name = None
    if found.get("agentops.span.kind") == "agent":
        name = found.get("operation.name")
    elif found.get("type") == "agent":  # Weave
        name = found.get("agentlightning.operation.input.name")
    elif span.name.startswith("langchain.Chain."):  # Weave over LangChain
        name = found.get("lc_name")
    return None if name is None else str(name)


def _chain_agent(found: Mapping[str, Any]) -> str | None:
    """The agent that a span of LangChain or LangGraph stands for: one that was given a name, else a node of a graph.

    Not the inner nodes of `create_agent`, and not the names that graphs and chains have by default.
    """
    if (name := found.get(f"{_PROPERTY}lc_agent_name")) is not None:
        return str(name)
    node = found.get(f"{_PROPERTY}langgraph_node")
    inner = found.get(f"{_PROPERTY}ls_integration") == "langchain_create_agent"
    if node is not None and node == found.get("gen_ai.task.name") and not inner:
        return str(node)
    name = str(found.get("gen_ai.agent.name", ""))
    return None if name in ("", "LangGraph") or name.startswith("Runnable") else name


def response_id(span: Span) -> str | None:
    """The id that the backend gave to its answer. The choices of one call share it."""
    found = span.attributes.get(GEN_AI_RESPONSE_ID)
    if found is None:
        found = next((span.attributes[f"{raw}.id"] for raw in _RAW if f"{raw}.id" in span.attributes), None)
    return None if found is None else str(found)


def answer_key(span: Span) -> str | None:
    """`response_id` without the prefix of its interface: the same for all who recorded the answer.

    The gateway writes down the id of the chat completion, `chatcmpl-x`; a client of Anthropic's interface saw `msg_x`.
    """
    found = response_id(span)
    return None if found is None else _PREFIX.sub("", found)


def order(span: Span) -> tuple[int, float]:
    """Sorts spans: by `sequence_id`; those that no store has numbered yet by their start."""
    return span.sequence_id, (span.start_time or 0.0) if span.sequence_id == 0 else 0.0


def without_twins(calls: Sequence[Span]) -> list[Span]:
    """LLM-call spans in order, one for each choice of each call.

    A call may be recorded twice, by the gateway and by the client's instrumentation; both know the response id. The
    span with tokens counts, else the first. The gateway numbers its calls: two numbers are two calls, though their
    answers have one id, as those of a backend's cache do.
    """
    best: dict[tuple[Any, ...], Span] = {}
    ordered = sorted(calls, key=order)
    numbers = {_answer(span): number for span in reversed(ordered) if (number := span.attributes.get(LLM_CALL_NUMBER))}
    for span in ordered:
        answer = _answer(span)
        key = (answer, span.attributes.get(LLM_CALL_NUMBER, numbers.get(answer)))
        known = best.get(key)
        if known is None or (known.token_call is None and span.token_call is not None):
            best[key] = span
    return sorted(best.values(), key=order)


def _answer(span: Span) -> tuple[str, Any]:
    """The same for all who recorded this choice of an answer."""
    answer = answer_key(span)
    return ("", span.span_id) if answer is None else (answer, span.attributes.get(LLM_CALL_CHOICE, 0))


def token_call(span: Span) -> TokenCall | None:
    """The call's tokens: those that the span carries, or what its attributes hold; `None` without both."""
    if span.token_call is not None:
        return span.token_call
    found = span.attributes
    prompt, response = _ids(found.get("prompt_token_ids")), _ids(found.get("response_token_ids"))
    logprobs: Any = None
    if prompt is None or response is None:
        prompt, response, logprobs = _raw_tokens(found)
    if prompt is None or response is None:
        return None
    reasons: Any = found.get(GEN_AI_RESPONSE_FINISH_REASONS)
    return TokenCall(
        model=str(found.get(GEN_AI_RESPONSE_MODEL) or found.get(GEN_AI_REQUEST_MODEL) or ""),
        prompt_ids=prompt,
        response_ids=response,
        logprobs=logprobs if logprobs is not None and len(logprobs) == len(response) else None,
        finish_reason=str(reasons[0]) if reasons and isinstance(reasons, (list, tuple)) else "stop",
    )


def request_messages(span: Span) -> list[dict[str, Any]]:
    """The messages of the request, in OpenAI's form; empty if the span does not say."""
    return _messages(span, GEN_AI_INPUT_MESSAGES, "gen_ai.prompt")


def answer_messages(span: Span) -> list[dict[str, Any]]:
    """The messages of the answer's choices, in OpenAI's form; empty if the span does not say."""
    return _messages(span, GEN_AI_OUTPUT_MESSAGES, "gen_ai.completion")


def tool_definitions(span: Span) -> list[dict[str, Any]] | None:
    """The tools that the request offered, in OpenAI's form; `None` if there were none."""
    given = span.attributes.get(GEN_AI_TOOL_DEFINITIONS)
    if isinstance(given, str):
        return _dicts(_json(given)) or None
    functions = _below(span, "gen_ai.request.functions")
    return [{"type": "function", "function": _with_json(each, "parameters")} for each in functions] or None


def image_urls(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The URLs of all images in messages, in order."""
    found: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) and content.startswith("[{"):
            content = _json(content)  # flattened attributes hold lists of parts as text
        for part in _dicts(content):
            if part.get("type") == "image_url":
                image = part.get("image_url")
                url = cast("dict[str, Any]", image).get("url") if isinstance(image, dict) else image
                if isinstance(url, str):
                    found.append(url)
    return found


def nested(span: Span, prefix: str) -> dict[str, Any] | None:
    """The attributes below `prefix`, nested again; `None` if there are none."""
    if prefix in span.attributes:
        return None
    found = filter_and_unflatten_attributes(span.attributes, prefix)
    return found if isinstance(found, dict) and found else None


# -- forms ----------------------------------------------------------------------------------------------------------


def _messages(span: Span, key: str, flattened: str) -> list[dict[str, Any]]:
    given = span.attributes.get(key)
    if isinstance(given, str):
        return [from_parts(message) for message in _dicts(_json(given))]
    return [_openai_message(message) for message in _below(span, flattened)]


def _openai_message(flat: dict[str, Any]) -> dict[str, Any]:
    """A flattened message with its tool calls as OpenAI nests them."""
    message = {key: value for key, value in flat.items() if key not in ("tool_calls", "finish_reason")}
    calls = [
        {
            "id": call.get("id"),
            "type": call.get("type", "function"),
            "function": {"name": call.get("name"), "arguments": call.get("arguments", "{}")},
        }
        for call in _dicts(flat.get("tool_calls"))
    ]
    return {**message, "tool_calls": calls} if calls else message


def _below(span: Span, prefix: str) -> list[dict[str, Any]]:
    found: Any = [] if prefix in span.attributes else filter_and_unflatten_attributes(span.attributes, prefix)
    return _dicts(found if isinstance(found, list) else [])


def _with_json(values: dict[str, Any], key: str) -> dict[str, Any]:
    given = values.get(key)
    return {**values, key: _json(given)} if isinstance(given, str) else values


def _json(text: str) -> Any:
    """The value, or the text itself where it is no JSON: spans may come from foreign programs."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in cast("list[Any]", value) if isinstance(item, dict)] if isinstance(value, list) else []


# -- token ids in attributes ----------------------------------------------------------------------------------------


def _ids(value: Any) -> Any:
    """(N,) int32, or `None` if `value` is no list of whole numbers (or the text of one)."""
    if isinstance(value, str):
        value = _literal(value)
    if not isinstance(value, (list, tuple)):
        return None
    items = cast("list[Any]", value)
    whole = all(isinstance(item, int) and 0 <= item < 2**31 for item in items)
    return np.array(items, np.int32) if whole else None


def _raw_tokens(found: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    for raw in _RAW:
        prompt = _ids(found.get(f"{raw}.prompt_token_ids"))
        text = found.get(f"{raw}.choices")
        choices = _dicts(_literal(text) if isinstance(text, str) else text)
        if prompt is not None and choices:
            logprobs = choices[0].get("logprobs")
            content = _dicts(cast("dict[str, Any]", logprobs).get("content")) if isinstance(logprobs, dict) else []
            values = [each.get("logprob") for each in content]
            known = bool(values) and all(isinstance(value, (int, float)) for value in values)
            return prompt, _ids(choices[0].get("token_ids")), np.array(values, np.float32) if known else None
    return None, None, None


def _literal(text: str) -> Any:
    """A Python or JSON literal; `None` where it is neither."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = _json(text)
        return None if isinstance(value, str) else value
