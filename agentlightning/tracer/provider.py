"""The process's OpenTelemetry provider, and how a finished span finds its attempt. Used by `otel` and `libraries`.

The attempt travels in OpenTelemetry's own context, so it goes wherever a trace goes: into tasks, into threads with a
copied context, and through OpenTelemetry's own propagation. All tracers of the process share one `TracerProvider`; it
becomes the global one if the program has none, so that spans which agents and their libraries make are caught too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from agentlightning.semconv import LightningResourceAttributes, attempt_trace_id
from agentlightning.types import Attributes, Span
from agentlightning.types.otel import plain_attributes

from .trace import AttemptTrace

logger = logging.getLogger(__name__)

ATTEMPT_KEY = otel_context.create_key("agentlightning-attempt")
_ROLLOUT_ID = LightningResourceAttributes.ROLLOUT_ID.value
_ATTEMPT_ID = LightningResourceAttributes.ATTEMPT_ID.value
_LEFT_OUT = frozenset(
    {
        _ROLLOUT_ID,
        _ATTEMPT_ID,
        # Secrets: instrumentations write down the headers that an agent gives with a request.
        "gen_ai.headers",
        "http.request.header.authorization",
        "http.request.header.proxy-authorization",
        "http.request.header.cookie",
        "http.request.header.x-api-key",
        "http.request.header.api-key",
        "http.response.header.set-cookie",
    }
)
"""Attributes that are not kept."""
_PER_CHUNK = "gen_ai.content.completion.chunk"
"""An event without content that instrumentations write for each chunk of a stream."""

MOST_EVENTS = 10_000
"""Of one span, the latest; a stream of many chunks must not fill the memory."""


def tracer_provider() -> TracerProvider:
    """The provider whose spans become spans of attempts."""
    return _provider()


@lru_cache(maxsize=1)
def otel_tracer() -> otel.Tracer:
    """Our own tracer of that provider."""
    return _provider().get_tracer("agentlightning")


def from_otel(span: ReadableSpan, rollout_id: str, attempt_id: str) -> Span:
    """`Span.from_opentelemetry`, without secrets and what only ties it to its attempt."""
    found = Span.from_opentelemetry(span, rollout_id, attempt_id)
    found.attributes = own_attributes(found.attributes)
    found.events = [event for event in found.events if event.name != _PER_CHUNK]
    if found.parent_id == attempt_trace_id(rollout_id, attempt_id)[:16]:
        found.parent_id = None
    return found


def own_attributes(values: Mapping[str, Any] | None) -> Attributes:
    """Attributes of an OpenTelemetry span as ours has them, see `from_otel`."""
    return {key: value for key, value in plain_attributes(values).items() if key.lower() not in _LEFT_OUT}


class ToAttempt(SpanProcessor):
    """Hands each finished span to the attempt in whose context it was *started*."""

    def __init__(self) -> None:
        self.attempts: dict[tuple[str, str], AttemptTrace] = {}
        """Attempts that run now, by rollout and attempt id."""

    def on_start(self, span: SdkSpan, parent_context: otel_context.Context | None = None) -> None:
        trace = otel_context.get_value(ATTEMPT_KEY, parent_context) or otel_context.get_value(ATTEMPT_KEY)
        if isinstance(trace, AttemptTrace):
            # The finished span is another object: attributes are what it has in common with this one.
            span.set_attributes({_ROLLOUT_ID: trace.rollout_id, _ATTEMPT_ID: trace.attempt_id})

    def on_end(self, span: ReadableSpan) -> None:
        ids: Mapping[str, Any] = span.attributes or {}
        trace = self.attempts.get((str(ids.get(_ROLLOUT_ID)), str(ids.get(_ATTEMPT_ID))))
        if trace is not None:
            trace.record(from_otel(span, trace.rollout_id, trace.attempt_id), span)


processor = ToAttempt()


@lru_cache(maxsize=1)
def _provider() -> TracerProvider:
    # Its locks have to be free when OpenTelemetry uses it in a process that an agent forks. Handlers of forks run in
    # the order in which they came, and that of a provider would wait for ever for one that came later.
    import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]

    none = SpanLimits.UNSET
    unlimited = SpanLimits(
        max_span_attributes=none,
        max_events=MOST_EVENTS,
        max_attributes=none,
        max_event_attributes=none,
        max_attribute_length=none,
        max_span_attribute_length=none,
    )
    resource = Resource({LightningResourceAttributes.TRACER_NAME.value: "OtelTracer"})
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, span_limits=unlimited, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


_adopting = threading.Lock()
_adopted = False


def adopt_global_provider() -> None:
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


def root_context(trace: AttemptTrace) -> otel_context.Context:
    """A context whose current span exists in name only, so that all spans of the attempt share one trace id."""
    trace_id = attempt_trace_id(trace.rollout_id, trace.attempt_id)
    root = otel.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(trace_id[:16], 16),
        is_remote=False,
        trace_flags=otel.TraceFlags(otel.TraceFlags.SAMPLED),
    )
    return otel.set_span_in_context(otel.NonRecordingSpan(root), otel_context.Context())
