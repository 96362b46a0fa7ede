"""Tool calls in the text of a response, in the Hermes form that Qwen and many others are trained on.

    <tool_call>
    {"name": "calculator", "arguments": {"expression": "1 + 2"}}
    </tool_call>

Called by `chat_answer.py` and `chat.py`; calls `text.py`. Nothing here raises: what can't be read as a call stays
content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from .text import possible_start

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One tool call."""

    name: str
    arguments: dict[str, Any]


class ToolCallReader:
    """Takes the tool calls out of a response that arrives piece by piece.

    What may be the beginning of a call is held back until it is clear. A call whose closing tag never comes, because a
    stop string or the length cut it, is read at the end. Whatever the pieces, the same comes out.
    """

    def __init__(self) -> None:
        self._held = ""
        self._blank: str | None = ""
        """White space so far; it is content if other content follows or no call does. `None` once there is content."""
        self._called = False

    def feed(self, text: str) -> list[str | ParsedCall]:
        """The content and the calls that are clear, now that `text` came."""
        self._held += text
        found = self._take_blocks(at_end=False)
        start = self._held.find(OPEN)
        if start < 0:
            start = len(self._held) - possible_start(self._held, (OPEN, "\n" + OPEN))
        elif self._held[:start].endswith("\n"):
            start -= 1
        content, self._held = self._held[:start], self._held[start:]
        return [*found, *self._content(content)]

    def finish(self) -> list[str | ParsedCall]:
        """The rest of a response that is complete."""
        found = self._take_blocks(at_end=True)
        found += self._content(self._held)
        if self._blank and not self._called:
            found.append(self._blank)
        return found

    def _take_blocks(self, *, at_end: bool) -> list[str | ParsedCall]:
        found: list[str | ParsedCall] = []
        while (start := self._held.find(OPEN)) >= 0:
            inside = start + len(OPEN)
            end = self._held.find(CLOSE, inside)
            if end < 0 and not at_end:
                break
            after = len(self._held) if end < 0 else end + len(CLOSE)
            call = _parse(self._held[inside : after if end < 0 else end])
            if call is None:
                found += self._content(self._held[:after])
            else:
                # Templates put a line break before each call. Kept, it would be there twice in the next prompt.
                found += [*self._content(self._held[:start].removesuffix("\n")), call]
                self._called = True
            self._held = self._held[after:]
        return found

    def _content(self, text: str) -> list[str]:
        if self._blank is not None:
            self._blank += text
            if not self._blank.strip():
                return []
            text, self._blank = self._blank, None
        return [text] if text else []


def parse_tool_calls(text: str) -> tuple[str | None, list[ParsedCall]]:
    """Take the tool calls out of a response.

    Args:
        text: The response. The last block may lack its closing tag, because a stop string or the length cut it.

    Returns:
        The text outside of well-formed calls, `None` where there is none, and the calls in order. Without calls the
        text comes back as it is.
    """
    reader = ToolCallReader()
    found = reader.feed(text) + reader.finish()
    calls = [item for item in found if isinstance(item, ParsedCall)]
    content = "".join(item for item in found if isinstance(item, str))
    return (content or None) if calls else content, calls


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
