"""Spans from OTLP's protobuf messages. Called by `otlp`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, StatusCode, TraceStatus

from ..rows import LARGEST_SEQUENCE_ID

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

ROLLOUT_ID = "agentlightning.rollout_id"
ATTEMPT_ID = "agentlightning.attempt_id"
SEQUENCE_ID = "agentlightning.span_sequence_id"
_STATUS: tuple[StatusCode, ...] = ("UNSET", "OK", "ERROR")


def spans_of(export: ExportTraceServiceRequest) -> Iterator[tuple[Span, str]]:
    """Each span, and what keeps it from being stored (empty: nothing)."""
    for group in export.resource_spans:
        resource = OtelResource(attributes=_attributes(group.resource.attributes), schema_url=group.schema_url)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield _span(span, resource)


def _span(source: ProtoSpan, resource: OtelResource) -> tuple[Span, str]:
    attributes = _attributes(source.attributes)
    says: dict[str, Any] = {**resource.attributes, **attributes}
    number, problem = _sequence_id(says)
    if not says.get(ROLLOUT_ID) or not says.get(ATTEMPT_ID):
        problem = f"a span has no `{ROLLOUT_ID}` or no `{ATTEMPT_ID}`, neither itself nor in its resource"
    if len(source.trace_id) != 16 or len(source.span_id) != 8:
        problem = f"span `{source.name}` has no trace id of 16 bytes or no span id of 8"
    span = Span.model_construct(
        name=source.name,
        attributes=attributes,
        start_time=_seconds(source.start_time_unix_nano),
        end_time=_seconds(source.end_time_unix_nano),
        status=_status(source),
        rollout_id=str(says.get(ROLLOUT_ID, "")),
        attempt_id=str(says.get(ATTEMPT_ID, "")),
        sequence_id=number,
        trace_id=source.trace_id.hex(),
        span_id=source.span_id.hex(),
        parent_id=source.parent_span_id.hex() or None,
        events=[_event(event) for event in source.events],
        links=[_link(link) for link in source.links],
        resource=resource,
        token_call=None,
    )
    return span, problem


def _sequence_id(says: Mapping[str, Any]) -> tuple[int, str]:
    """The number that the span brings, 0 for none, and what is wrong with it."""
    value = says.get(SEQUENCE_ID, 0)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if 0 <= number <= LARGEST_SEQUENCE_ID:
        return number, ""
    return 0, f"`{SEQUENCE_ID}` is {value!r}; give a whole number from 1 to {LARGEST_SEQUENCE_ID}, or none"


def _status(source: ProtoSpan) -> TraceStatus:
    code = source.status.code
    known = _STATUS[code] if 0 <= code < len(_STATUS) else "UNSET"
    return TraceStatus(status_code=known, description=source.status.message or None)


def _event(source: ProtoSpan.Event) -> Event:
    return Event.model_construct(
        name=source.name, attributes=_attributes(source.attributes), timestamp=_seconds(source.time_unix_nano)
    )


def _link(source: ProtoSpan.Link) -> Link:
    pairs = (pair.partition("=") for pair in source.trace_state.split(",") if "=" in pair)
    context = SpanContext(
        trace_id=source.trace_id.hex(),
        span_id=source.span_id.hex(),
        trace_state={key.strip(): value.strip() for key, _, value in pairs},
    )
    return Link.model_construct(context=context, attributes=_attributes(source.attributes) or None)


def _seconds(nanoseconds: int) -> float | None:
    return nanoseconds / 1e9 if nanoseconds else None


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _flat(_value(pair.value)) for pair in pairs}


def _value(source: AnyValue) -> Any:
    kind = source.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in source.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in source.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(source.bytes_value).decode()
    return getattr(source, kind)


def _flat(value: Any) -> Any:
    """An attribute as `Span` takes it; what is nested or mixed becomes JSON text."""
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, list) and len({type(item) for item in value}) <= 1 and _is_plain(value):
        return value
    return orjson.dumps(value).decode()


def _is_plain(values: list[Any]) -> bool:
    return all(isinstance(value, (str, bool, int, float)) for value in values)
