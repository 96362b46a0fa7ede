"""`OtelTracer`: every OpenTelemetry span that ends within an attempt becomes one of ours.

`provider` catches the spans, `export` sends them to a collector as well, `libraries` has libraries make them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanProcessor

from agentlightning.types import Span, SpanCoreFields, SpanRecordingContext, StatusCode, TraceStatus
from agentlightning.types.otel import seconds

from . import export, libraries, provider
from .attributes import flatten_attributes
from .base import Tracer
from .provider import from_otel
from .trace import AttemptTrace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["OtelAttemptTrace", "OtelRecordingContext", "OtelTracer", "from_otel"]


class OtelAttemptTrace(AttemptTrace):
    """An attempt that is an OpenTelemetry tracer too: `trace_context(...) as trace`, `trace.start_as_current_span`."""

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> otel.Span:
        """As OpenTelemetry's `Tracer.start_span`."""
        return provider.otel_tracer().start_span(name, *args, **kwargs)

    def start_as_current_span(
        self, name: str, *args: Any, **kwargs: Any
    ) -> contextlib.AbstractContextManager[otel.Span]:
        """As OpenTelemetry's `Tracer.start_as_current_span`."""
        return provider.otel_tracer().start_as_current_span(name, *args, **kwargs)

    def _kept(self, span: Span, source: Any) -> None:
        export.send([span], source)


class OtelRecordingContext:
    """A span of OpenTelemetry that is under way. Implements `types.SpanRecordingContext`."""

    def __init__(self, span: SdkSpan) -> None:
        self._span = span

    def record_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes; nested mappings are flattened."""
        self._span.set_attributes(flatten_attributes(attributes))

    def record_exception(self, exception: BaseException) -> None:
        """Type, message and traceback as an event; the status becomes `ERROR`."""
        self._span.record_exception(exception)
        self.record_status("ERROR", str(exception))

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Say how it went."""
        self._span.set_status(
            otel.Status(otel.StatusCode[status_code], description if status_code == "ERROR" else None)
        )

    def get_recorded_span(self) -> SpanCoreFields:
        """The span so far."""
        return SpanCoreFields(
            name=self._span.name,
            attributes=provider.own_attributes(self._span.attributes),
            start_time=seconds(self._span.start_time),
            end_time=seconds(self._span.end_time),
            status=TraceStatus.from_opentelemetry(self._span.status),
        )


class OtelTracer(Tracer):
    """The default tracer: what emitters say and OpenTelemetry spans, in one trace per attempt.

    Args:
        instrument: Libraries that make spans by themselves from the first attempt to `teardown`: `True` for all that
            `libraries` knows and finds, or some of their names.
        exporter: Gets all spans as well, those of a gateway in this process included, from the first attempt to
            `teardown`. Beside it, OpenTelemetry's variables name a collector for all tracers of the process, see
            `export`.
    """

    trace_type = OtelAttemptTrace

    def __init__(self, instrument: bool | Iterable[str] = False, exporter: SpanExporter | None = None) -> None:
        self._libraries = instrument if isinstance(instrument, bool) else _names(instrument)
        self._exporter = exporter
        self._processor: SpanProcessor | None = None
        self._users = 0
        self._begun = False
        self._lock = threading.Lock()

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Begin to instrument and export; runners that share the tracer may each call it.

        Raises:
            ConfigError: OpenTelemetry's variables ask for something that is not here.
        """
        super().init(*args, **kwargs)
        with self._lock:
            self._users += 1
        self._begin()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Undo what `init` did, once as often as it was called; what waits is exported for up to a few seconds."""
        with self._lock:
            self._users = max(self._users - 1, 0)
            ends = self._users == 0 and self._begun
            self._begun = self._begun and not ends
        if ends:
            libraries.release(self)
            export.flush()
            if self._processor is not None:
                export.remove(self._processor)
        super().teardown(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return {**kept, "_processor": None, "_users": 0, "_begun": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _begin(self) -> None:
        with self._lock:
            if self._begun:
                return
            provider.adopt_global_provider()
            export.configure()
            if self._exporter is not None:
                self._processor = self._processor or export.processor_for(self._exporter)
                export.add(self._processor)
            if self._libraries:
                libraries.hold(self, None if self._libraries is True else self._libraries)
            self._begun = True

    def create_span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """As `Tracer.create_span`, but as a child of the current OpenTelemetry span."""
        self._trace()
        flat = flatten_attributes(attributes or {})
        at = time.time() if timestamp is None else timestamp
        span = provider.otel_tracer().start_span(name, attributes=flat, start_time=int(at * 1e9))
        if not span.is_recording():  # `OTEL_SDK_DISABLED` must not cost a reward
            return super().create_span(name, flat, at, status)
        status = status or TraceStatus(status_code="OK")
        span.set_status(otel.StatusCode[status.status_code], status.description)
        span.end(int(at * 1e9))
        return SpanCoreFields(name=name, attributes=flat, start_time=at, end_time=at, status=status)

    @contextlib.contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[SpanRecordingContext, None, None]:
        """As `Tracer.operation_context`; spans made in the block are its children."""
        self._trace()
        at = time.time() if start_time is None else start_time
        flat = flatten_attributes(attributes or {})
        span = provider.otel_tracer().start_span(name, attributes=flat, start_time=int(at * 1e9))
        if not isinstance(span, SdkSpan):  # `OTEL_SDK_DISABLED`
            with super().operation_context(name, flat, at, end_time) as record:
                yield record
            return
        context = OtelRecordingContext(span)
        try:
            with otel.use_span(span, record_exception=False, set_status_on_exception=False):
                yield context
        except BaseException as error:
            context.record_exception(error)
            raise
        finally:
            span.end(None if end_time is None else int(end_time * 1e9))

    @contextlib.contextmanager
    def _attached(self, trace: AttemptTrace) -> Generator[None, None, None]:
        self._begin()
        context = otel_context.set_value(provider.ATTEMPT_KEY, trace, provider.root_context(trace))
        token = otel_context.attach(context)
        running = provider.processor.attempts
        running[trace.rollout_id, trace.attempt_id] = trace
        try:
            yield
        finally:
            running.pop((trace.rollout_id, trace.attempt_id), None)
            otel_context.detach(token)


def _names(given: Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
