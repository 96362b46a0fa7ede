"""Ids of a Response and its items. Used by `answers`, `events` and `items`.

They are made from the id of the chat completion, so that the items of a later request tell which of them were one
answer.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

from ...backend import Json

_PLAIN = re.compile(r"[A-Za-z0-9-]{1,48}")
_OURS = re.compile(r"(?:msg|rs|fc)_agl_([A-Za-z0-9-]+)(?:_\d+)?")


def answer_key(completion: Json) -> str:
    """What the ids of an answer have in common: letters, digits and dashes. `completion` may be a chunk."""
    found = completion.get("id")
    if not isinstance(found, str) or not found:
        return uuid.uuid4().hex
    plain = found.removeprefix("chatcmpl-")
    return plain if _PLAIN.fullmatch(plain) else hashlib.blake2b(found.encode(), digest_size=16).hexdigest()


def response_id(key: str) -> str:
    """Id of the Response."""
    return f"resp_{key}"


def item_id(kind: str, key: str, number: int | None = None) -> str:
    """Id of an item. `kind` is `msg`, `rs` or `fc`; `number` counts the function calls of an answer."""
    return f"{kind}_agl_{key}" if number is None else f"{kind}_agl_{key}_{number}"


def call_id(call: Json, key: str, number: int) -> str:
    """The id of a tool call, one of our own where the backend gave none."""
    found = call.get("id")
    return found if isinstance(found, str) and found else f"call_{key}_{number}"


def key_of(identity: Any) -> str | None:
    """The answer that an item belongs to; `None` where its id is none that was made here."""
    found = _OURS.fullmatch(identity) if isinstance(identity, str) else None
    return found[1] if found else None
