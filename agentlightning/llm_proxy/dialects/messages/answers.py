"""Whole answers: a chat completion as a Message, and a Message as a chat completion.

Used by `interface`, `events` and `backends/anthropic.py`.
"""

from __future__ import annotations

import time
from typing import Any, Final, cast

import orjson
from pydantic_core import from_json

from agentlightning.types import RequestError

from ...backend import Json

REASONING_FIELDS: Final = ("reasoning", "reasoning_content")
"""Where chat messages carry what a model thought: vLLM's name, and that of others. A thinking block's `signature`,
which clients send back untouched, holds the name that the backend used."""
RAW_ARGUMENTS: Final = "agentlightning.raw_arguments"
"""The one key of the `input` of a tool call whose arguments are no JSON object; its value is their text."""

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_FINISHES = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def messages_answer(body: Json, response: Json) -> Json:
    """The first choice of a chat completion as a Message.

    Args:
        body: The request that it answers.
        response: The chat completion.

    Raises:
        RequestError: 502, it has no choices.
    """
    choices: Any = response.get("choices")
    if not choices or not isinstance(choices[0], dict):
        raise RequestError("the backend's answer has no `choices`", status=502)
    choice = cast("Json", choices[0])
    message: Json = choice.get("message") or {}
    calls = cast("list[Json]", message.get("tool_calls") or [])
    stop_reason, stop_sequence = _stop(choice, called=bool(calls))
    return {
        "id": message_id(response.get("id")),
        "type": "message",
        "role": "assistant",
        "model": response.get("model") or body.get("model"),
        "content": [*_said(message), *(tool_use(response, at, call) for at, call in enumerate(calls))],
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": messages_usage(response.get("usage")),
    }


def _said(message: Json) -> list[Json]:
    blocks: list[Json] = []
    for name in REASONING_FIELDS:
        if message.get(name):
            blocks.append({"type": "thinking", "thinking": message[name], "signature": name})
            break
    text = message.get("content") or message.get("refusal")
    if text:
        blocks.append({"type": "text", "text": text})
    return blocks


def message_id(chat_id: Any) -> str:
    """A completion's id in Anthropic's form. One that Anthropic gave stays as it is."""
    return f"msg_{str(chat_id or '').removeprefix('chatcmpl-').removeprefix('msg_')}"


def tool_use_id(chat_id: Any, at: int, given: Any) -> str:
    """A tool call's own id, else one from the completion's id and the call's place."""
    return given if isinstance(given, str) and given else f"toolu_{message_id(chat_id)[4:]}_{at}"


def tool_use(response: Json, at: int, call: Json) -> Json:
    """A tool call as a block."""
    function: Json = call.get("function") or {}
    return {
        "type": "tool_use",
        "id": tool_use_id(response.get("id"), at, call.get("id")),
        "name": function.get("name") or "",
        "input": read_arguments(function.get("arguments")),
    }


def read_arguments(arguments: Any) -> Json:
    """The object that a tool call's arguments are; where they were cut off, or go on after it, what can be read of it.

    That is what Anthropic's client reads from a stream of the same arguments.
    """
    text = arguments or "{}"
    if isinstance(text, dict):
        return cast("Json", text)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _cut_object(text)
    return cast("Json", value) if isinstance(value, dict) else {RAW_ARGUMENTS: text}


def _cut_object(text: str) -> Any:
    try:
        value = from_json(text, allow_partial=True)
        orjson.dumps(value)
    except (ValueError, TypeError):
        return None
    return value


def write_arguments(given: Json) -> str:
    """A block's `input` as a tool call's arguments."""
    raw = given.get(RAW_ARGUMENTS)
    return raw if len(given) == 1 and isinstance(raw, str) else orjson.dumps(given).decode()


def _stop(choice: Json, *, called: bool) -> tuple[str, str | None]:
    finish = choice.get("finish_reason")
    if called and finish == "stop":  # as some servers say even where a tool was called
        return "tool_use", None
    matched = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM's and SGLang's names
    if finish == "stop" and isinstance(matched, str):
        return "stop_sequence", matched
    return _STOPS.get(str(finish), "end_turn"), None


def messages_usage(usage: Any) -> Json:
    """Token counts; unlike `prompt_tokens`, `input_tokens` counts only what no cache served."""
    found = _fields(usage)
    details = _fields(found.get("prompt_tokens_details"))
    read, created = _count(details.get("cached_tokens")), _count(details.get("cache_creation_tokens"))
    return {
        "input_tokens": max(0, _count(found.get("prompt_tokens")) - read - created),
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": read,
        "output_tokens": _count(found.get("completion_tokens")),
    }


def chat_usage(usage: Any) -> Json:
    """Anthropic's token counts as OpenAI's."""
    found = _fields(usage)
    read, created = (_count(found.get(f"cache_{what}_input_tokens")) for what in ("read", "creation"))
    prompt, completion = _count(found.get("input_tokens")) + read + created, _count(found.get("output_tokens"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read, "cache_creation_tokens": created},
    }


def _fields(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def chat_answer(message: Json, created: int | None = None) -> Json:
    """A Message as a chat completion.

    Args:
        message: As Anthropic answers.
        created: Unix time in seconds; `None`: now.

    Raises:
        RequestError: 502, it is none.
    """
    content = message.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in cast("list[Any]", content)):
        raise RequestError(f"the backend's answer has no list of `content` blocks: {message!r:.200}", status=502)
    choice: Json = {
        "index": 0,
        "message": _chat_message(cast("list[Json]", content)),
        "logprobs": None,
        "finish_reason": finish_reason(message.get("stop_reason")),
    }
    if message.get("stop_sequence") is not None:
        choice["stop_reason"] = message["stop_sequence"]
    return {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": int(time.time()) if created is None else created,
        "model": message.get("model"),
        "choices": [choice],
        "usage": chat_usage(message.get("usage")),
    }


def finish_reason(stop_reason: Any) -> str:
    """Anthropic's `stop_reason` as OpenAI's `finish_reason`."""
    return _FINISHES.get(str(stop_reason), "stop")


def _chat_message(blocks: list[Json]) -> Json:
    text = "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
    thoughts = "".join(str(block.get("thinking") or "") for block in blocks if block.get("type") == "thinking")
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    message: Json = {"role": "assistant", "content": text if text or not calls else None}
    if thoughts:
        message[REASONING_FIELDS[0]] = thoughts
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Json) -> Json:
    function = {"name": block.get("name"), "arguments": write_arguments(_fields(block.get("input")))}
    return {"id": block.get("id"), "type": "function", "function": function}
