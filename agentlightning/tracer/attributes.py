"""Turns what people hand over as attributes into what a span can hold.

Called by the tracers and emitters. A span holds strings, numbers, booleans and plain lists of one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from agentlightning.types import Attributes, AttributeValue
from agentlightning.utils.otel import flatten_attributes as flatten


def flatten_attributes(values: Mapping[str, Any], prefix: str = "") -> Attributes:
    """`values` with nested mappings and lists as dotted keys: `{"a": {"b": 1}}` is `{"a.b": 1}`.

    Args:
        values: Anything JSON can hold; other values become their `str`. `None` is left out.
        prefix: What goes in front of each key, without the dot.

    Raises:
        TypeError: a key is not a string.
    """
    try:
        flat = flatten({prefix: values} if prefix else values)
    except ValueError as error:
        raise TypeError(str(error)) from error
    return {key: attribute_value(value) for key, value in flat.items() if value is not None}


def attribute_value(value: Any) -> AttributeValue:
    """One value as a span can hold it: scalars and lists of one scalar type as they are, the rest as JSON or `str`."""
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        items = list(cast("list[Any]", value))
        if len({type(item) for item in items}) <= 1 and all(isinstance(i, (str, bool, int, float)) for i in items):
            return items
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # beyond JSON: an integer of more than 64 bits, a lone surrogate
        return str(value)
