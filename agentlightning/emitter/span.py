"""The one way by which emitters make a span: through the active tracer, or as a value for the caller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agentlightning.tracer import flatten_attributes, get_active_tracer
from agentlightning.types import SpanCoreFields, TraceStatus


def emit_span(
    name: str, attributes: Mapping[str, Any], *, propagate: bool, status: TraceStatus | None = None
) -> SpanCoreFields:
    """Record a span in the current attempt, or with `propagate=False` only return it.

    Raises:
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    if not propagate:
        now = time.time()
        status = status or TraceStatus(status_code="OK")
        return SpanCoreFields(
            name=name, attributes=flatten_attributes(attributes), start_time=now, end_time=now, status=status
        )
    tracer = get_active_tracer()
    if tracer is None:
        raise RuntimeError(
            f"can't emit `{name}`: no tracer is active in this context. Emit within an attempt (a thread of your own "
            "needs `contextvars.copy_context().run`), or pass `propagate=False` and return the span from the agent"
        )
    return tracer.create_span(name, attributes, status=status)
