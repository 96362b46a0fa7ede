"""The answer to a Responses request, made from that of its chat completion. Called by `interface` and `events`."""

from __future__ import annotations

from typing import Final, cast

from agentlightning.types import RequestError

from ...backend import Json
from ..base import well_formed
from .ids import answer_key, call_id, item_id, response_id
from .requests import wants_logprobs

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter", "abort": None}
_ECHOED: Final = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_p": 1.0,
    "top_logprobs": 0,
    "user": None,
}
"""Fields of the request that the Response repeats, with their defaults."""


def response_object(body: Json, completion: Json) -> Json:
    """See `Translated.from_chat`.

    Raises:
        RequestError: 502, the answer is malformed or has no choice.
    """
    with well_formed():
        key = answer_key(completion)
        items = output_items(first_choice(completion), key, wants_logprobs(body))
        return finished(opened(body, completion, key), completion, items)


def first_choice(completion: Json) -> Json:
    """The one choice that a Response is made from."""
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        raise RequestError("the backend's answer has no `choices`", status=502)
    return cast("Json", choices[0])


def opened(body: Json, completion: Json, key: str) -> Json:
    """The Response before anything was sampled. `completion` may be a chunk."""
    text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
    return {
        "id": response_id(key),
        "object": "response",
        "created_at": completion.get("created") or 0,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": completion.get("model") or body.get("model"),
        "output": [],
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
        "usage": None,
        "service_tier": completion.get("service_tier"),
        "metadata": body.get("metadata") or {},
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "tools": [{"parameters": None, "strict": None, **tool} for tool in body.get("tools") or []],
        **{name: default if body.get(name) is None else body[name] for name, default in _ECHOED.items()},
    }


def finished(response: Json, completion: Json, output: list[Json]) -> Json:
    """The Response `response` at its end, with these items."""
    finish = first_choice(completion).get("finish_reason")
    status = "incomplete" if finish in _INCOMPLETE else "completed"
    if status == "incomplete" and output:
        output = [*output[:-1], {**output[-1], "status": status}]
    return {
        **response,
        "model": completion.get("model") or response["model"],
        "service_tier": completion.get("service_tier"),
        "status": status,
        "incomplete_details": {"reason": _INCOMPLETE[finish]} if finish in _INCOMPLETE else None,
        "output": output,
        "usage": _usage(completion.get("usage")),
    }


def output_items(choice: Json, key: str, with_logprobs: bool) -> list[Json]:
    """What the model said as items: its reasoning, its message, its function calls."""
    message: Json = choice.get("message") or {}
    reasoning = reasoning_of(message)
    calls: list[Json] = message.get("tool_calls") or []
    items: list[Json] = []
    if reasoning:
        items.append(reasoning_item(key, [{"type": "reasoning_text", "text": reasoning}]))
    if message.get("content") or message.get("refusal") or not (reasoning or calls):
        items.append(message_item(key, _parts(choice, message, with_logprobs)))
    return items + [call_item(call, key, number) for number, call in enumerate(calls)]


def reasoning_of(message: Json) -> str:
    """The reasoning of a chat message or of a streamed part of one; vLLM and SGLang name it differently."""
    return message.get("reasoning") or message.get("reasoning_content") or ""


def _parts(choice: Json, message: Json, with_logprobs: bool) -> list[Json]:
    parts: list[Json] = []
    if message.get("content") or not message.get("refusal"):
        logprobs = text_logprobs(choice) if with_logprobs else []
        parts.append(
            {"type": "output_text", "text": message.get("content") or "", "annotations": [], "logprobs": logprobs}
        )
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    return parts


def message_item(key: str, parts: list[Json]) -> Json:
    """The message of an answer."""
    identity = item_id("msg", key)
    return {"type": "message", "id": identity, "status": "completed", "role": "assistant", "content": parts}


def reasoning_item(key: str, parts: list[Json]) -> Json:
    """The reasoning of an answer."""
    return {"type": "reasoning", "id": item_id("rs", key), "summary": [], "content": parts, "status": "completed"}


def call_item(call: Json, key: str, number: int) -> Json:
    """A function call of an answer, from a tool call of its chat message."""
    function: Json = call.get("function") or {}
    return {
        "type": "function_call",
        "id": item_id("fc", key, number),
        "call_id": call_id(call, key, number),
        "name": function.get("name") or "",
        "arguments": function.get("arguments") or "",
        "status": "completed",
    }


def text_logprobs(choice: Json) -> list[Json]:
    """Log-probs of a choice, or of a streamed part of one; here `bytes` is never null."""
    content: list[Json] = (choice.get("logprobs") or {}).get("content") or []
    return [
        {**_logprob(token), "top_logprobs": [_logprob(other) for other in token.get("top_logprobs") or []]}
        for token in content
    ]


def _logprob(token: Json) -> Json:
    return {"token": token["token"], "bytes": token.get("bytes") or [], "logprob": token["logprob"]}


def _usage(usage: Json | None) -> Json | None:
    if usage is None:
        return None
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens") or 0,
        "input_tokens_details": {
            "cached_tokens": prompt.get("cached_tokens") or 0,
            "cache_write_tokens": prompt.get("cache_write_tokens") or 0,
        },
        "output_tokens": usage.get("completion_tokens") or 0,
        "output_tokens_details": {"reasoning_tokens": completion.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or 0,
    }
