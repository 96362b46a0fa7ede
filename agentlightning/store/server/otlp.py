"""OpenTelemetry's own export, `POST /v1/traces`: protobuf or JSON, as its OTLP/HTTP exporters send it.

Which attempt a span belongs to is in its attributes or in those of its resource (`agentlightning.rollout_id`,
`agentlightning.attempt_id`); so is `agentlightning.span_sequence_id`, without which the store numbers the span. Spans
that can't be stored are counted in the answer's `partial_success`; the others are stored. Source: OTLP 1.x, OTLP/HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, cast

import orjson

from agentlightning.types import RequestError, Span

from ..base import LightningStore
from .call import JSON, Answer, Call

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROTOBUF = "application/x-protobuf"
_IDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})


async def serve(store: LightningStore, call: Call) -> Answer:
    """The handler of `/v1/traces`."""
    content_type = call.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if content_type not in (PROTOBUF, JSON):
        raise RequestError(f"`Content-Type` is {content_type!r}; send {PROTOBUF} or {JSON}", status=415)
    export = _read_json(call.body) if content_type == JSON else _read_protobuf(call.body)
    rejected, reasons = await _store(store, export)
    return _answer(content_type, rejected, reasons)


def _read_protobuf(body: bytes) -> ExportTraceServiceRequest:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise RequestError(f"the body is no ExportTraceServiceRequest: {error}", status=400) from error


def _read_json(body: bytes) -> ExportTraceServiceRequest:
    from google.protobuf.json_format import ParseDict, ParseError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        fields = _packed_ids(orjson.loads(body))
        return ParseDict(fields, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (orjson.JSONDecodeError, ParseError, ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"the body is no ExportTraceServiceRequest: {error}", status=400) from error


def _packed_ids(value: Any) -> Any:
    """OTLP writes ids in hexadecimal where the JSON form of protobuf has base64."""
    if isinstance(value, list):
        return [_packed_ids(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = {key: _packed_ids(item) for key, item in cast("dict[str, Any]", value).items()}
    for key in _IDS & fields.keys():
        fields[key] = base64.b64encode(bytes.fromhex(fields[key])).decode()
    return fields


async def _store(store: LightningStore, export: ExportTraceServiceRequest) -> tuple[int, list[str]]:
    """Store what can be stored; how many spans can't, and why."""
    from .otlp_spans import spans_of

    groups: dict[tuple[str, str], list[Span]] = {}
    rejected, reasons = 0, list[str]()
    for span, problem in spans_of(export):
        if problem:
            rejected, reasons = rejected + 1, [*reasons, problem]
        else:
            groups.setdefault((span.rollout_id, span.attempt_id), []).append(span)
    # By attempt: one that was lost must not keep the spans of the others out.
    results = await asyncio.gather(*map(store.add_many_spans, groups.values()), return_exceptions=True)
    for spans, result in zip(groups.values(), results, strict=True):
        if isinstance(result, (ValueError, TypeError)):  # an attempt that is not there or lost, a value that can't be
            rejected, reasons = rejected + len(spans), [*reasons, str(result)]
        elif isinstance(result, BaseException):
            raise result
    return rejected, list(dict.fromkeys(reasons))


def _answer(content_type: str, rejected: int, reasons: list[str]) -> Answer:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    message = "; ".join(reasons[:10])
    if content_type == JSON:
        partial = {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": message}} if rejected else {}
        return Answer(200, json.dumps(partial).encode(), JSON)
    answer = ExportTraceServiceResponse()
    if rejected:
        answer.partial_success.rejected_spans = rejected
        answer.partial_success.error_message = message
    return Answer(200, answer.SerializeToString(), PROTOBUF)
