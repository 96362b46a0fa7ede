"""Replies of editors -> the new prompt. Models forget tags and fences: what is there is taken. Called by proposers."""

from __future__ import annotations

import re

OPEN, CLOSE = "<new_prompt>", "</new_prompt>"
_FENCE = "```"
_LANGUAGE = re.compile(r"\A[A-Za-z0-9_+-]*[ \t]*\n")


def between_tags(reply: str) -> str:
    """The text between the last pair of tags; without tags the whole reply, without fences around it."""
    reply = reply.strip()
    end = reply.rfind(CLOSE)
    start = reply.rfind(OPEN, 0, end if end >= 0 else len(reply))
    if start < 0 and end < 0:
        return _unfenced(reply)
    start = start + len(OPEN) if start >= 0 else 0
    return _unfenced(reply[start : end if end >= 0 else len(reply)].strip())


def between_fences(reply: str) -> str:
    """The text between the first and the last fence, so that a prompt may hold fences itself; else the whole reply.

    Source: GEPA (spec section 3), which takes a missing fence as lightly.
    """
    reply = reply.strip()
    first, last = reply.find(_FENCE), reply.rfind(_FENCE)
    if first < 0:
        return between_tags(reply)
    if first == last:  # one is missing: what it opens, or what it ends
        return _without_language(reply[3:]) if first == 0 else reply[:first].strip() or reply[first + 3 :].strip()
    return _without_language(reply[first + 3 : last])


def _unfenced(text: str) -> str:
    """Without fences that are around all of it."""
    if text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 6 and text.count(_FENCE) == 2:
        return _without_language(text[3:-3])
    return text


def _without_language(text: str) -> str:
    """Without the word after an opening fence, as `text` or `markdown`, which is alone on its line."""
    return _LANGUAGE.sub("", text, count=1).strip()
