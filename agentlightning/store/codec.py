"""Values as JSON text and back. Both homes keep what they are given in this form, so that nobody's later changes reach
the store and an unserialisable value is refused before anything is written.

numpy scalars and arrays become numbers and lists, tuples become lists. NaN and infinities survive.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast

import numpy as np
import orjson

_SLOW = " "
"""Begins a text that orjson could not write and would not read right (NaN, integers beyond 64 bits); still JSON."""
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def encode(field: str, value: Any) -> str:
    """`value` as JSON text.

    Raises:
        TypeError: JSON can't hold it; the message says where in `field` and what to give instead.
    """
    try:
        text = orjson.dumps(value, option=_OPTIONS).decode()
    except TypeError:  # also long integers and lone surrogates, which the slower way can write
        return _encode_slowly(field, value)
    # orjson writes NaN and infinities as null.
    return _encode_slowly(field, value) if "null" in text and _has_nonfinite(value) else text


def decode(text: str) -> Any:
    """Inverse of `encode`."""
    return json.loads(text) if text.startswith(_SLOW) else orjson.loads(text)


def _encode_slowly(field: str, value: Any) -> str:
    try:
        return _SLOW + json.dumps(_plain(field, value))
    except RecursionError:
        raise TypeError(f"`{field}` is nested too deeply, or contains itself; give a flat JSON value") from None


def _plain(path: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(path, cast(Any, value).tolist())
    if isinstance(value, dict):
        entries = cast(dict[Any, Any], value)
        if wrong := [key for key in entries if not isinstance(key, str)]:
            raise TypeError(f"`{path}` has the key {wrong[0]!r}; JSON keys are strings: write `str(key)`")
        return {key: _plain(f"{path}.{key}", item) for key, item in entries.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{path}[{index}]", item) for index, item in enumerate(cast(list[Any], value))]
    raise TypeError(
        f"`{path}` is a {type(value).__name__}, which JSON can't hold; "
        "give a str, int, float, bool, None, list or dict of them"
    )


def _has_nonfinite(value: Any) -> bool:
    if isinstance(value, (float, np.floating)):
        return not math.isfinite(cast(float, value))
    if isinstance(value, np.ndarray):
        numbers = cast(Any, value)
        return numbers.dtype.kind == "f" and not bool(np.isfinite(numbers).all())
    if isinstance(value, dict):
        return any(_has_nonfinite(item) for item in cast(dict[Any, Any], value).values())
    if isinstance(value, (list, tuple)):
        return any(_has_nonfinite(item) for item in cast(list[Any], value))
    return False
