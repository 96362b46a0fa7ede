"""Objects: any JSON value on the running attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types import SpanCoreFields

from .span import emit_span

_TYPE = LightningSpanAttributes.OBJECT_TYPE.value
_LITERAL = LightningSpanAttributes.OBJECT_LITERAL.value
_JSON = LightningSpanAttributes.OBJECT_JSON.value


def emit_object(object: Any, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Record a JSON value in the running attempt.

    Raises:
        TypeError: JSON can't hold `object`.
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    found: dict[str, Any] = {**dict(attributes or {}), _TYPE: type(object).__name__}
    if isinstance(object, (str, bool, int, float)):
        found[_LITERAL] = object
    else:
        found[_JSON] = json.dumps(object, ensure_ascii=False)
    return emit_span(AGL_OBJECT, found, propagate=propagate)


def get_object_value(span: SpanCoreFields) -> Any:
    """The value of an object span, or `None` if it is none."""
    if _LITERAL in span.attributes:
        return span.attributes[_LITERAL]
    text = span.attributes.get(_JSON)
    return json.loads(text) if isinstance(text, str) else None
