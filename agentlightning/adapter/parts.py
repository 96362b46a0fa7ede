"""Messages in the form of OpenTelemetry's GenAI conventions -> OpenAI's form. Called by `reading`.

The gateway writes OpenAI's form; instrumentations of clients write `{"role", "parts": [{"type": "text", ...}]}`.
Source: the JSON schemas of `gen_ai.input.messages` and `gen_ai.output.messages`.
"""

from __future__ import annotations

from typing import Any, cast

import orjson


def from_parts(message: dict[str, Any]) -> dict[str, Any]:
    """`message` in OpenAI's form; one that has no `parts` as it is. Parts that OpenAI's form lacks are left out."""
    given = message.get("parts")
    if not isinstance(given, list):
        return message
    parts = [cast("dict[str, Any]", part) for part in cast("list[Any]", given) if isinstance(part, dict)]
    found: dict[str, Any] = {"role": message.get("role"), "content": _content(parts)}
    for part in parts:
        match part.get("type"):
            case "reasoning":
                found["reasoning_content"] = found.get("reasoning_content", "") + str(part.get("content", ""))
            case "tool_call":
                found.setdefault("tool_calls", []).append(_tool_call(part))
            case "tool_call_response":
                answer = part.get("response", part.get("result"))
                found |= {"role": "tool", "tool_call_id": part.get("id"), "content": _text(answer)}
            case _:
                pass
    return found


def _content(parts: list[dict[str, Any]]) -> Any:
    """Text, a list of text and images where there are images, `None` where there is neither."""
    texts = [part for part in parts if part.get("type") == "text"]
    images = [part for part in parts if part.get("type") == "uri" and part.get("modality", "image") == "image"]
    if images:
        shown = [part for part in parts if part in texts or part in images]
        return [
            {"type": "text", "text": part.get("content")}
            if part.get("type") == "text"
            else {"type": "image_url", "image_url": {"url": part.get("uri")}}
            for part in shown
        ]
    return "".join(str(part.get("content") or "") for part in texts) if texts else None


def _tool_call(part: dict[str, Any]) -> dict[str, Any]:
    function = {"name": part.get("name"), "arguments": _text(part.get("arguments", {}))}
    return {"id": part.get("id"), "type": "function", "function": function}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
