"""`OtelTracer`: every OpenTelemetry span that ends within an attempt becomes one of ours.

The attempt travels in OpenTelemetry's own context, so it goes wherever a trace goes: into tasks, into threads with a
copied context, and through OpenTelemetry's own propagation. All tracers of the process share one `TracerProvider`; it
becomes the global one if the program has none, so that spans which agents and their libraries make are caught too.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Mapping
from functools import lru_cache
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from agentlightning.semconv import LightningResourceAttributes, attempt_trace_id
from agentlightning.types import Span, SpanCoreFields, SpanRecordingContext, StatusCode, TraceStatus
from agentlightning.types.otel import seconds

from .attributes import attribute_value, flatten_attributes
from .base import Tracer
from .trace import AttemptTrace

logger = logging.getLogger(__name__)

_ATTEMPT_KEY = otel_context.create_key("agentlightning-attempt")
_ROLLOUT_ID = LightningResourceAttributes.ROLLOUT_ID.value
_ATTEMPT_ID = LightningResourceAttributes.ATTEMPT_ID.value


class OtelAttemptTrace(AttemptTrace):
    """An attempt that is an OpenTelemetry tracer too: `trace_context(...) as trace`, `trace.start_as_current_span`."""

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> otel.Span:
        """As OpenTelemetry's `Tracer.start_span`."""
        return _otel_tracer().start_span(name, *args, **kwargs)

    def start_as_current_span(
        self, name: str, *args: Any, **kwargs: Any
    ) -> contextlib.AbstractContextManager[otel.Span]:
        """As OpenTelemetry's `Tracer.start_as_current_span`."""
        return _otel_tracer().start_as_current_span(name, *args, **kwargs)


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
            attributes=_attributes(self._span.attributes),
            start_time=seconds(self._span.start_time),
            end_time=seconds(self._span.end_time),
            status=TraceStatus.from_opentelemetry(self._span.status),
        )


class OtelTracer(Tracer):
    """The default tracer: what emitters say and OpenTelemetry spans, in one trace per attempt."""

    trace_type = OtelAttemptTrace

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
        span = _otel_tracer().start_span(name, attributes=flat, start_time=int(at * 1e9))
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
        span = _otel_tracer().start_span(name, attributes=flat, start_time=int(at * 1e9))
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
        _adopt_global_provider()
        context = otel_context.set_value(_ATTEMPT_KEY, trace, _root_context(trace))
        token = otel_context.attach(context)
        _processor.attempts[trace.rollout_id, trace.attempt_id] = trace
        try:
            yield
        finally:
            _processor.attempts.pop((trace.rollout_id, trace.attempt_id), None)
            otel_context.detach(token)


def from_otel(span: ReadableSpan, rollout_id: str, attempt_id: str) -> Span:
    """`Span.from_opentelemetry`, without what only ties it to its attempt."""
    found = Span.from_opentelemetry(span, rollout_id, attempt_id)
    found.attributes = _attributes(span.attributes)
    if found.parent_id == attempt_trace_id(rollout_id, attempt_id)[:16]:
        found.parent_id = None
    return found


class _ToAttempt(SpanProcessor):
    """Hands each finished span to the attempt in whose context it was *started*."""

    def __init__(self) -> None:
        self.attempts: dict[tuple[str, str], AttemptTrace] = {}
        """Attempts that run now, by rollout and attempt id."""

    def on_start(self, span: SdkSpan, parent_context: otel_context.Context | None = None) -> None:
        trace = otel_context.get_value(_ATTEMPT_KEY, parent_context) or otel_context.get_value(_ATTEMPT_KEY)
        if isinstance(trace, AttemptTrace):
            # The finished span is another object: attributes are what it has in common with this one.
            span.set_attributes({_ROLLOUT_ID: trace.rollout_id, _ATTEMPT_ID: trace.attempt_id})

    def on_end(self, span: ReadableSpan) -> None:
        ids = span.attributes or {}
        trace = self.attempts.get((str(ids.get(_ROLLOUT_ID)), str(ids.get(_ATTEMPT_ID))))
        if trace is not None:
            trace.record(from_otel(span, trace.rollout_id, trace.attempt_id))


_processor = _ToAttempt()


@lru_cache(maxsize=1)
def _provider() -> TracerProvider:
    # Its locks have to be free when OpenTelemetry uses it in a process that an agent forks. Handlers of forks run in
    # the order in which they came, and that of a provider would wait for ever for one that came later.
    import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]

    unlimited = SpanLimits(max_span_attributes=SpanLimits.UNSET, max_span_attribute_length=SpanLimits.UNSET)
    resource = Resource({LightningResourceAttributes.TRACER_NAME.value: OtelTracer.__name__})
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, span_limits=unlimited, shutdown_on_exit=False)
    provider.add_span_processor(_processor)
    return provider


@lru_cache(maxsize=1)
def _otel_tracer() -> otel.Tracer:
    return _provider().get_tracer("agentlightning")


_adopting = threading.Lock()
_adopted = False


def _adopt_global_provider() -> None:
    """Make our provider the global one, once, if the program has not chosen one."""
    global _adopted
    with _adopting:
        if _adopted:
            return
        _adopted = True
        if isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider):
            otel.set_tracer_provider(_provider())
        else:
            logger.info("another OpenTelemetry provider is in place: spans made through it are not recorded")


def _root_context(trace: AttemptTrace) -> otel_context.Context:
    """A context whose current span exists in name only, so that all spans of the attempt share one trace id."""
    trace_id = attempt_trace_id(trace.rollout_id, trace.attempt_id)
    root = otel.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(trace_id[:16], 16),
        is_remote=False,
        trace_flags=otel.TraceFlags(otel.TraceFlags.SAMPLED),
    )
    return otel.set_span_in_context(otel.NonRecordingSpan(root), otel_context.Context())


def _attributes(values: Mapping[str, Any] | None) -> dict[str, Any]:
    own = (_ROLLOUT_ID, _ATTEMPT_ID)
    return {key: attribute_value(value) for key, value in (values or {}).items() if key not in own}
