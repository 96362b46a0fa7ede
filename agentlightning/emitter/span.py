"""The one way by which emitters make a span: through the active tracer, or as a value for the caller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agentlightning.tracer import Tracer, flatten_attributes, get_active_tracer
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
    return need_tracer(name).create_span(name, attributes, status=status)


def need_tracer(name: str) -> Tracer:
    """The tracer of the running attempt.

    Args:
        name: Of the span that is to be made, for the message.

    Raises:
        RuntimeError: no attempt runs in this context.
    """
    tracer = get_active_tracer()
    if tracer is None:
        raise RuntimeError(
            f"can't emit `{name}`: no tracer is active in this context. Emit within an attempt (a thread of your own "
            "needs `contextvars.copy_context().run`), or pass `propagate=False` and return the span from the agent"
        )
    return tracer
