"""Streamed chunks put together again, as OpenAI's clients do it, to compare them with the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def chat_from(chunks: Sequence[Json]) -> Json:
    """The chat completion that chunks add up to; without `usage` if none was sent."""
    whole, choices = _frame(chunks, "chat.completion"), dict[int, Json]()
    for chunk in chunks:
        for part in chunk["choices"]:
            if part["index"] not in choices:
                assert part["delta"]["role"] == "assistant", "the role comes first"
                fresh: Json = {"role": "assistant", "content": None}
                choices[part["index"]] = {"index": part["index"], "message": fresh, "logprobs": None}
            choice = choices[part["index"]]
            assert "finish_reason" not in choice, "nothing comes after the finish reason"
            _add_delta(choice["message"], part["delta"])
            _extend(choice, part, "token_ids")
            if part["logprobs"]:
                entries = part["logprobs"]["content"]
                choice["logprobs"] = {"content": [*(choice["logprobs"] or {"content": []})["content"], *entries]}
            if part["finish_reason"] is not None:
                choice["finish_reason"] = part["finish_reason"]
    return whole | {"choices": [choices[at] for at in range(len(choices))]}


def completion_from(chunks: Sequence[Json]) -> Json:
    """The text completion that chunks add up to; without `usage` if none was sent."""
    whole, choices = _frame(chunks, "text_completion"), dict[int, Json]()
    for chunk in chunks:
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {"index": part["index"], "text": "", "logprobs": None})
            assert "finish_reason" not in choice, "nothing comes after the finish reason"
            choice["text"] += part["text"]
            _extend(choice, part, "token_ids")
            if part.get("prompt_token_ids") is not None:
                assert "prompt_token_ids" not in choice, "the prompt is told once"
                choice["prompt_token_ids"] = part["prompt_token_ids"]
            for name, values in (part["logprobs"] or {}).items():
                choice["logprobs"] = choice["logprobs"] or {}
                so_far = choice["logprobs"].get(name, [])
                choice["logprobs"][name] = values if values is None else [*so_far, *values]
            if part["finish_reason"] is not None:
                choice["finish_reason"] = part["finish_reason"]
    return whole | {"choices": [choices[at] for at in range(len(choices))]}


def _frame(chunks: Sequence[Json], kind: str) -> Json:
    """What all chunks have in common, and what only some have."""
    names = ("id", "created", "model", "system_fingerprint")
    (common,) = {tuple(chunk[name] for name in names) for chunk in chunks}
    assert {chunk["object"] for chunk in chunks} == {f"{kind}.chunk" if kind.startswith("chat") else kind}
    whole: Json = dict(zip(names, common, strict=True)) | {"object": kind}
    for name in ("usage", "prompt_token_ids"):
        told = [chunk[name] for chunk in chunks if chunk.get(name) is not None]
        assert len(told) <= 1
        whole |= {name: told[0]} if told else {}
    if "prompt_token_ids" in whole:
        assert "prompt_token_ids" in chunks[0]
    if "usage" in whole:
        assert chunks[-1]["choices"] == []
        assert all("usage" in chunk for chunk in chunks)
    return whole


def _add_delta(message: Json, delta: Json) -> None:
    if delta.get("content") is not None:
        message["content"] = (message["content"] or "") + delta["content"]
    for call in delta.get("tool_calls", []):
        calls = message.setdefault("tool_calls", [])
        assert call["index"] == len(calls)
        calls.append({name: value for name, value in call.items() if name != "index"})


def _extend(choice: Json, part: Json, name: str) -> None:
    if name in part:
        choice[name] = [*choice.get(name, []), *part[name]]
