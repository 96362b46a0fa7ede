"""An OTLP export with everything in it. Used by `test_otlp` and `seeds`."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def export(rollout_id: str, attempt_id: str) -> dict[str, Any]:
    """The export, as JSON has it."""
    own = {"agentlightning.rollout_id": rollout_id, "agentlightning.attempt_id": attempt_id}
    attributes: list[dict[str, Any]] = [{"key": key, "value": {"stringValue": value}} for key, value in own.items()]
    attributes += [
        {"key": "agentlightning.span_sequence_id", "value": {"intValue": "7"}},
        {"key": "list", "value": {"arrayValue": {"values": [{"doubleValue": 1.5}, {"boolValue": True}]}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "a", "value": {"bytesValue": "aGk="}}]}}},
    ]
    ids = {"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "00000000000000ab"}
    times = {"startTimeUnixNano": "1795248819000000000", "endTimeUnixNano": "1795248820000000000"}
    more = {
        "events": [{"name": "e", "timeUnixNano": "1795248819500000000", "attributes": attributes[:1]}],
        "links": [{**ids, "attributes": attributes[:1]}],
        "status": {"code": 2, "message": "oh"},
    }
    span = {**ids, **times, **more, "parentSpanId": "00000000000000aa", "name": "step", "kind": 2}
    scope = {"scope": {"name": "s"}, "spans": [{**span, "attributes": attributes}]}
    return {"resourceSpans": [{"resource": {"attributes": attributes[:1]}, "schemaUrl": "x", "scopeSpans": [scope]}]}


def protobuf(value: dict[str, Any]) -> bytes:
    """The same as protobuf; its ids are other bytes, as protobuf's JSON form has them in base64."""
    return ParseDict(value, ExportTraceServiceRequest()).SerializeToString()
