"""Turns what people hand over as attributes into what a span can hold.

Called by the tracers and emitters. A span holds strings, numbers, booleans and plain lists of one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from agentlightning.types import Attributes, AttributeValue


def flatten_attributes(values: Mapping[str, Any], prefix: str = "") -> Attributes:
    """`values` with nested mappings and lists of mappings as dotted keys: `{"a": {"b": 1}}` is `{"a.b": 1}`.

    Args:
        values: Anything JSON can hold; other values become their `str`. `None` is left out.
        prefix: What goes in front of each key, without the dot.

    Raises:
        TypeError: a key is not a string.
    """
    flat: Attributes = {}
    for key, value in values.items():
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # agents are not type-checked
            raise TypeError(f"attribute keys must be strings, not {type(key).__name__} ({key!r})")
        _put(flat, f"{prefix}.{key}" if prefix else key, value)
    return flat


def _put(flat: Attributes, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, Mapping):
        flat.update(flatten_attributes(cast(Mapping[str, Any], value), key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in _items(value)):
        for index, item in enumerate(_items(value)):
            _put(flat, f"{key}.{index}", item)
    else:
        flat[key] = attribute_value(value)


def attribute_value(value: Any) -> AttributeValue:
    """One value as a span can hold it: scalars and lists of one scalar type as they are, the rest as JSON or `str`."""
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        items = _items(value)
        if len({type(item) for item in items}) <= 1 and all(isinstance(i, (str, bool, int, float)) for i in items):
            return cast(AttributeValue, list(items))
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # beyond JSON: an integer of more than 64 bits, a lone surrogate
        return str(value)


def _items(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value)
