"""Copies of spans for an OpenTelemetry collector, beside the store. Fed by `otel` (agents) and by the gateway (calls).

Both write the same trace id for one attempt, so a collector shows one trace. Which collector is said by OpenTelemetry's
own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, for every process of a run) or by `OtelTracer(exporter=...)`.
Spans wait in a queue of limited length and a thread of OpenTelemetry's sends them, so a collector that is slow or dead
costs copies and nothing else. Token ids are not part of what is exported.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agentlightning.semconv import LLM_CALL_NUMBER, LightningResourceAttributes
from agentlightning.types import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

FLUSH_S = 3.0
"""Longest wait in `flush`, in seconds; what a collector has not taken by then goes on waiting in the queue."""
QUEUE, BATCH = 1024, 64
"""Spans that wait, spans in one request; not OpenTelemetry's 2048 and 512, because prompts can be long. Its variables
`OTEL_BSP_MAX_QUEUE_SIZE` and `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` go before these."""

_lock = threading.Lock()
_processors: tuple[SpanProcessor, ...] = ()


def processor_for(exporter: SpanExporter) -> SpanProcessor:
    """A queue and a thread for `exporter`; see `add`."""
    from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_QUEUE_SIZE
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(
        exporter,
        max_queue_size=None if OTEL_BSP_MAX_QUEUE_SIZE in os.environ else QUEUE,
        max_export_batch_size=None if OTEL_BSP_MAX_EXPORT_BATCH_SIZE in os.environ else BATCH,
    )


def add(processor: SpanProcessor) -> None:
    """Export to `processor` as well, from now on."""
    global _processors
    with _lock:
        if not _processors:
            atexit.unregister(flush)
            atexit.register(flush)
        _processors = (*_processors, processor)


def remove(processor: SpanProcessor) -> None:
    """Undo one `add`. What is in its queue is still sent."""
    global _processors
    with _lock:
        left = list(_processors)
        if processor in left:
            left.remove(processor)
        _processors = tuple(left)


def send(spans: Sequence[Span], source: ReadableSpan | None = None) -> None:
    """Export copies of spans, in the background. Costs nothing where there is no exporter.

    Args:
        spans: What is exported.
        source: The OpenTelemetry span that the one span was made from, see `to_readable_span`.
    """
    if not _processors:
        return
    for span in spans:
        if (readable := to_readable_span(span, source)) is not None:
            for processor in _processors:
                processor.on_end(readable)


def flush() -> None:
    """Send what waits, for up to `FLUSH_S` seconds."""
    if not (waiting := _processors):
        return
    threads = [threading.Thread(target=processor.force_flush, daemon=True) for processor in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FLUSH_S / len(threads))


@lru_cache(maxsize=1)
def configure() -> None:
    """Export as OpenTelemetry's variables say, from the first call on. Without them nothing happens."""
    endpoint = _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or _variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = _variable("OTEL_SDK_DISABLED").lower() == "true"
    if not endpoint or off or "otlp" not in (_variable("OTEL_TRACES_EXPORTER") or "otlp"):
        return
    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        logger.warning(
            "no spans are exported to %s: `OTEL_EXPORTER_OTLP_PROTOCOL` is %r, and only `http/protobuf` is spoken here;"
            " for another give `OtelTracer(exporter=...)` the exporter",
            endpoint,
            protocol,
        )
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError:
        logger.warning("no spans are exported to %s: `pip install 'agentlightning[otlp]'` first", endpoint)
        return
    add(processor_for(OTLPSpanExporter()))


def to_readable_span(span: Span, source: ReadableSpan | None = None) -> ReadableSpan | None:
    """`span` as OpenTelemetry's exporters take it; `None` where its ids are not OpenTelemetry's.

    Rollout and attempt are in its resource, where `agl store` finds them again; tokens are left out.

    Args:
        span: Any span of ours.
        source: The OpenTelemetry span that it was made from, for its kind and scope.
    """
    from opentelemetry import trace as otel
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    if (context := _context(span.trace_id, span.span_id)) is None:
        return None
    kind = otel.SpanKind.CLIENT if LLM_CALL_NUMBER in span.attributes else otel.SpanKind.INTERNAL
    code = otel.StatusCode[span.status.status_code]
    links = ((_context(link.context.trace_id, link.context.span_id), link.attributes) for link in span.links)
    return ReadableSpan(
        name=span.name,
        context=context,
        parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
        resource=_resource(span),
        attributes=span.attributes,
        events=[Event(event.name, event.attributes, _nanoseconds(event.timestamp)) for event in span.events],
        links=[otel.Link(target, attributes) for target, attributes in links if target is not None],
        kind=kind if source is None else source.kind,
        status=otel.Status(code, span.status.description if code is otel.StatusCode.ERROR else None),
        start_time=_nanoseconds(span.start_time),
        end_time=_nanoseconds(span.end_time),
        instrumentation_scope=(source and source.instrumentation_scope) or InstrumentationScope("agentlightning"),
    )


def _context(trace_id: str, span_id: str) -> Any:
    from opentelemetry import trace as otel

    try:
        context = otel.SpanContext(int(trace_id, 16), int(span_id, 16), False, otel.TraceFlags(otel.TraceFlags.SAMPLED))
    except ValueError:  # an agent may return spans with ids of its own making
        return None
    return context if context.is_valid else None


def _resource(span: Span) -> Resource:
    from opentelemetry.sdk.resources import Resource

    ids = (
        (LightningResourceAttributes.ROLLOUT_ID.value, span.rollout_id),
        (LightningResourceAttributes.ATTEMPT_ID.value, span.attempt_id),
    )
    own = {key: value for key, value in span.resource.attributes.items() if isinstance(value, (str, bool, int, float))}
    return _process().merge(Resource({**own, **dict(ids)}))


@lru_cache(maxsize=1)
def _process() -> Resource:
    """What OpenTelemetry's variables say about this process."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    found = Resource.create()
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "agentlightning"}))
    return found


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()
