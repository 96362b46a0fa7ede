"""Tool calls in the text of a response, in the Hermes form that Qwen and many others are trained on.

    <tool_call>
    {"name": "calculator", "arguments": {"expression": "1 + 2"}}
    </tool_call>

Called by `service.py` and `chat.py`; standard library only. Nothing here raises: what can't be read as a call stays
content.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One tool call."""

    name: str
    arguments: dict[str, Any]


def parse_tool_calls(text: str) -> tuple[str | None, list[ParsedCall]]:
    """Take the tool calls out of a response.

    Args:
        text: The response. The last block may lack its closing tag, because a stop string or the length cut it.

    Returns:
        The text outside of well-formed calls, `None` where there is none, and the calls in order. Without calls the
        text comes back as it is.
    """
    calls: list[ParsedCall] = []
    rest: list[str] = []
    at = 0
    for block in _BLOCK.finditer(text):
        call = _parse(block.group(1))
        if call is None:
            continue
        calls.append(call)
        # Templates put a line break before each call. Kept in the content, it would be there twice in the next prompt.
        rest.append(text[at : block.start()].removesuffix("\n"))
        at = block.end()
    if not calls:
        return text, []
    rest.append(text[at:])
    content = "".join(rest)
    return content if content.strip() else None, calls


def read_object(text: str) -> dict[str, Any] | None:
    """The object that a JSON text stands for; `None` where it is none, or holds what JSON or UTF-8 can't carry."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _parse(block: str) -> ParsedCall | None:
    """The call in the text between the tags, `None` where it is no call."""
    fields = read_object(block)
    if fields is None:
        return None
    name, arguments = fields.get("name"), fields.get("arguments", {})
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ParsedCall(name, cast(dict[str, Any], arguments))
