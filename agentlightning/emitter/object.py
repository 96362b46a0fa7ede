"""Objects: any JSON value, or bytes, on the running attempt."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types import SpanCoreFields, SpanLike

from .span import emit_span

_TYPE = LightningSpanAttributes.OBJECT_TYPE.value
_LITERAL = LightningSpanAttributes.OBJECT_LITERAL.value
_JSON = LightningSpanAttributes.OBJECT_JSON.value


def emit_object(object: Any, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Record a JSON value, or bytes, in the running attempt.

    Raises:
        TypeError: JSON can't hold `object`.
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    return emit_span(AGL_OBJECT, {**dict(attributes or {}), **encode_object(object)}, propagate=propagate)


def encode_object(object: Any) -> dict[str, Any]:
    """The attributes of an object span. Raises `TypeError` as `emit_object` does."""
    kind = {_TYPE: type(object).__name__}
    if isinstance(object, (str, bool, int, float)):
        return {**kind, _LITERAL: object}
    if isinstance(object, bytes):
        return {**kind, _LITERAL: base64.b64encode(object).decode()}
    try:
        return {**kind, _JSON: json.dumps(object, ensure_ascii=False)}
    except TypeError as error:
        raise TypeError(f"`object` is a {type(object).__name__} that JSON can't hold: {error}") from error


def get_object_value(span: SpanLike) -> Any:
    """The value of an object span, or `None` if it is none."""
    attributes = span.attributes or {}
    if _LITERAL in attributes:
        return _literal(attributes[_LITERAL], attributes.get(_TYPE))
    text = attributes.get(_JSON)
    return json.loads(text) if isinstance(text, str) else None


def _literal(value: Any, kind: Any) -> Any:
    """A literal as the type that it was: 0.3 writes all of them as text, and bytes always are."""
    if not isinstance(value, str) or kind not in _READ:
        return value
    return _READ[kind](value)


_READ: Final[dict[str, Callable[[str], Any]]] = {
    "bytes": base64.b64decode,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
}
