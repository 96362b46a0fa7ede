"""Messages: a line of text on the running attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.semconv import AGL_MESSAGE, LightningSpanAttributes
from agentlightning.types import SpanCoreFields, SpanLike

from .span import emit_span

_BODY = LightningSpanAttributes.MESSAGE_BODY.value


def emit_message(message: str, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Record a line of text in the running attempt.

    Raises:
        TypeError: `message` is not a string.
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # agents are not type-checked
        raise TypeError(f"`message` must be a string, not {type(message).__name__}; `emit_object` takes other values")
    return emit_span(AGL_MESSAGE, {**dict(attributes or {}), _BODY: message}, propagate=propagate)


def get_message_value(span: SpanLike) -> str | None:
    """The text of a message span, or `None` if it is none."""
    body = (span.attributes or {}).get(_BODY)
    return body if isinstance(body, str) else None
