"""A server's own Response as a chat completion: what the gateway's spans are made from. Called by `interface`."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.types import RequestError

from ...backend import Json
from ..base import well_formed


def chat_completion(response: Json) -> Json:
    """See `Interface.answer_to_chat`. Calls of built-in tools, which chat does not know, stand in `output_items`.

    Raises:
        RequestError: 502, the answer is malformed or has no output items.
    """
    output: Any = response.get("output")
    if not isinstance(output, list):
        raise RequestError("the backend's answer has no `output`, a list of items", status=502)
    with well_formed():
        message, logprobs = _chat_message(cast("list[Json]", output))
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": _finish_reason(response, message),
        }
        return {
            "id": response.get("id"),
            "object": "chat.completion",
            "created": int(response.get("created_at") or 0),
            "model": response.get("model"),
            "choices": [choice],
            "usage": _chat_usage(response.get("usage")),
        }


def _chat_message(items: list[Json]) -> tuple[Json, list[Json]]:
    parts = [part for item in items if item.get("type") == "message" for part in item.get("content") or []]
    texts = [part for part in parts if part.get("type") == "output_text"]
    refusals = [part["refusal"] for part in parts if part.get("type") == "refusal"]
    calls = [_chat_call(item) for item in items if item.get("type") in ("function_call", "custom_tool_call")]
    thoughts = [thought for item in items if item.get("type") == "reasoning" for thought in _thoughts(item)]
    known = ("message", "function_call", "custom_tool_call", "reasoning")
    others = [item for item in items if item.get("type") not in known]
    content = "".join(part.get("text") or "" for part in texts) if texts else None
    message: Json = {"role": "assistant", "content": content}
    optional = {
        "reasoning": "\n\n".join(thoughts),
        "refusal": "".join(refusals),
        "tool_calls": calls,
        "output_items": others,
    }
    message.update({name: value for name, value in optional.items() if value})
    return message, [logprob for part in texts for logprob in part.get("logprobs") or []]


def _thoughts(item: Json) -> list[str]:
    """What a reasoning item says: the reasoning itself, or its summary where that is all there is."""
    return [part.get("text") or "" for part in item.get("content") or item.get("summary") or []]


def _chat_call(item: Json) -> Json:
    identity = item.get("call_id")
    if item["type"] == "custom_tool_call":
        return {"id": identity, "type": "custom", "custom": {"name": item.get("name"), "input": item.get("input")}}
    function = {"name": item.get("name"), "arguments": item.get("arguments") or ""}
    return {"id": identity, "type": "function", "function": function}


def _finish_reason(response: Json, message: Json) -> str:
    if response.get("status") == "failed":
        return "error"
    if response.get("status") == "incomplete":
        reason = (response.get("incomplete_details") or {}).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    return "tool_calls" if "tool_calls" in message else "stop"


def _chat_usage(usage: Json | None) -> Json | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.get("input_tokens") or 0,
        "completion_tokens": usage.get("output_tokens") or 0,
        "total_tokens": usage.get("total_tokens") or 0,
        "prompt_tokens_details": usage.get("input_tokens_details") or {},
        "completion_tokens_details": usage.get("output_tokens_details") or {},
    }
