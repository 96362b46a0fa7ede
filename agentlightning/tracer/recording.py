"""`SpanRecord`: a span that is under way, recorded here and not by OpenTelemetry.

Called by `Tracer.operation_context` and by emitters that only return their span.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from typing import Any

from agentlightning.types import SpanCoreFields, StatusCode, TraceStatus
from agentlightning.utils.otel import format_exception_attributes

from .attributes import flatten_attributes


class SpanRecord:
    """Implements `types.SpanRecordingContext`.

    Args:
        name: What happens, see `semconv`.
        attributes: Nested mappings are flattened to dotted keys.
        start_time: Seconds since the epoch; now if not given.
    """

    def __init__(self, name: str, attributes: Mapping[str, Any] | None = None, start_time: float | None = None):
        self._span = SpanCoreFields(
            name=name,
            attributes=flatten_attributes(attributes or {}),
            start_time=time.time() if start_time is None else start_time,
        )

    def record_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes; nested mappings are flattened."""
        self._span.attributes.update(flatten_attributes(attributes))

    def record_exception(self, exception: BaseException) -> None:
        """Type, message and traceback as attributes; the status becomes `ERROR`."""
        self._span.attributes.update(format_exception_attributes(exception))
        self.record_status("ERROR", str(exception))

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Say how it went."""
        self._span.status = TraceStatus(status_code=status_code, description=description)

    def get_recorded_span(self) -> SpanCoreFields:
        """The span so far."""
        return self._span

    @contextlib.contextmanager
    def running(self, end_time: float | None = None) -> Generator[SpanRecord, None, None]:
        """The span ends with the block; an exception that leaves the block is recorded and goes on."""
        try:
            yield self
        except BaseException as error:
            self.record_exception(error)
            raise
        else:
            if self._span.status.status_code == "UNSET":
                self.record_status("OK")
        finally:
            self._span.end_time = time.time() if end_time is None else end_time
