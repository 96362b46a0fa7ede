"""Exceptions as spans: what the runner writes for an agent that raised, and what an agent may write itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.semconv import AGL_EXCEPTION
from agentlightning.types import SpanCoreFields, TraceStatus
from agentlightning.utils.otel import format_exception_attributes as exception_attributes

from .span import emit_span

__all__ = ["emit_exception", "exception_attributes"]


def emit_exception(
    exception: BaseException, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> SpanCoreFields:
    """Record an exception in the running attempt, which goes on.

    Args:
        exception: What was caught.
        attributes: More attributes for the span.
        propagate: False only returns the span.

    Raises:
        TypeError: `exception` is not an exception.
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    if not isinstance(exception, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]  # agents are untyped
        raise TypeError(f"`exception` must be an exception, not {type(exception).__name__} ({exception!r:.100})")
    found = {**dict(attributes or {}), **exception_attributes(exception)}
    status = TraceStatus(status_code="ERROR", description=str(exception))
    return emit_span(AGL_EXCEPTION, found, propagate=propagate, status=status)
