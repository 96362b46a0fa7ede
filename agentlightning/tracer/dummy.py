"""`DummyTracer`: for code that emits and is to run without anything being recorded, as in its own unit tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from typing import Any

from agentlightning.types import Span, SpanCoreFields, SpanRecordingContext, TraceStatus

from .attributes import flatten_attributes
from .base import Tracer
from .recording import SpanRecord


class DummyTracer(Tracer):
    """Gives spans back and keeps none. Make it active with `set_active_tracer`, or with its `trace_context`."""

    def create_span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """The span, of which nothing is kept."""
        at = time.time() if timestamp is None else timestamp
        status = status or TraceStatus(status_code="OK")
        flat = flatten_attributes(attributes or {})
        return SpanCoreFields(name=name, attributes=flat, start_time=at, end_time=at, status=status)

    def get_last_trace(self) -> list[Span]:
        """Empty: nothing is kept."""
        return []

    @contextlib.contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[SpanRecordingContext, None, None]:
        """As `Tracer.operation_context`, but nothing is kept, and it works outside of any attempt."""
        with SpanRecord(name, attributes, start_time).running(end_time) as record:
            yield record
