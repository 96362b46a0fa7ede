"""OTLP ingest, with OpenTelemetry's own exporter and as raw JSON and protobuf."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, StatusCode

from agentlightning.store import SqlLightningStore
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, LeaseLostError, Span

from ...postgres import PostgresServer
from .conftest import Http

TRACES = "/v1/traces"


def ids_of(rollout: AttemptedRollout) -> dict[str, Any]:
    return {
        "agentlightning.rollout_id": rollout.rollout_id,
        "agentlightning.attempt_id": rollout.attempt.attempt_id,
    }


def as_json(*spans: dict[str, Any], resource: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "resourceSpans": [
            {"resource": {"attributes": pairs(resource or {})}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}
        ]
    }


def pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", int: "intValue", bool: "boolValue", float: "doubleValue"}
    return [{"key": key, "value": {kinds[type(value)]: value}} for key, value in attributes.items()]


def json_span(number: int, attributes: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    ids = {"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": f"{number:016x}"}
    return {**ids, "name": f"step {number}", "kind": 2, "attributes": pairs(attributes), **fields}


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_opentelemetrys_own_exporter(
    server: LightningStoreServer, client: LightningStoreClient, compression: Compression
):
    rollout = await client.start_rollout("task")

    def export() -> list[int]:
        provider = TracerProvider(resource=Resource.create({**ids_of(rollout), "service.name": "agent"}))
        exporter = OTLPSpanExporter(server.otlp_traces_endpoint(), compression=compression)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span(
            "outer", attributes={"n": 1, "tags": ["a", "b"], "x": 0.5, "ok": True}
        ) as outer:
            link = Link(outer.get_span_context(), {"why": "because"})
            with tracer.start_as_current_span("inner", links=[link]) as inner:
                inner.add_event("noted", {"k": "v"})
                inner.set_status(StatusCode.ERROR, "it broke")
        provider.shutdown()
        return [span.get_span_context().span_id for span in (outer, inner)]

    outer_id, inner_id = await asyncio.to_thread(export)
    spans = {span.name: span for span in await client.query_spans(rollout.rollout_id)}
    outer, inner = spans["outer"], spans["inner"]
    assert sorted(span.sequence_id for span in spans.values()) == [1, 2]
    assert (outer.span_id, inner.span_id) == (f"{outer_id:016x}", f"{inner_id:016x}")
    assert (outer.parent_id, inner.parent_id, inner.trace_id) == (None, outer.span_id, outer.trace_id)
    assert outer.attributes == {"n": 1, "tags": ["a", "b"], "x": 0.5, "ok": True}
    assert outer.resource.attributes["service.name"] == "agent"
    assert (inner.status.status_code, inner.status.description) == ("ERROR", "it broke")
    assert [(event.name, event.attributes) for event in inner.events] == [("noted", {"k": "v"})]
    assert [(link.context.span_id, link.attributes) for link in inner.links] == [(outer.span_id, {"why": "because"})]
    assert outer.start_time is not None
    assert outer.end_time is not None
    assert 0 <= outer.end_time - outer.start_time < 60
    attempt = await client.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.status == "running"


async def test_json_spans_with_their_own_ids_and_numbers(http: Http, client: LightningStoreClient):
    rollout = await client.start_rollout("task")
    nested = {
        "key": "nested",
        "value": {"kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {"values": [{"intValue": "1"}]}}}]}},
    }
    span = json_span(
        7,
        {**ids_of(rollout), "agentlightning.span_sequence_id": 5, "text": "x"},
        startTimeUnixNano="1544712660000000000",
        endTimeUnixNano=1544712661500000000,
        status={"code": 1},
        parentSpanId="EEE19B7EC3C1B173",
        someNewField=1,
    )
    span["attributes"].append(nested)
    answer = await http.post(TRACES, as_json(span))
    assert (answer.status, answer.body) == (200, {})
    (stored,) = await client.query_spans(rollout.rollout_id)
    assert (stored.sequence_id, stored.span_id, stored.parent_id) == (5, f"{7:016x}", "eee19b7ec3c1b173")
    assert stored.trace_id == "5b8efff798038103d269b633813fc60c"
    assert (stored.start_time, stored.end_time, stored.status.status_code) == (1544712660.0, 1544712661.5, "OK")
    assert (stored.attributes["text"], stored.attributes["nested"]) == ("x", '{"a":[1]}')
    assert await client.get_next_span_sequence_id(rollout.rollout_id, rollout.attempt.attempt_id) == 6


async def test_spans_that_cannot_be_stored_are_counted_and_the_others_stored(http: Http, client: LightningStoreClient):
    rollout, lost = await client.start_rollout("task"), await client.start_rollout("lost")
    await client.update_rollout(lost.rollout_id, status="cancelled")
    with pytest.raises(LeaseLostError):
        await client.add_span(Span.create("late", rollout_id=lost.rollout_id, attempt_id=lost.attempt.attempt_id))
    good = ids_of(rollout)
    answer = await http.post(
        TRACES,
        as_json(
            json_span(1, good),
            json_span(2, {}),
            json_span(3, {**good, "agentlightning.rollout_id": "ro-unknown"}),
            json_span(4, ids_of(lost)),
            json_span(5, {**good, "agentlightning.span_sequence_id": "many"}),
            json_span(6, good, spanId=""),
            json_span(7, {**good, "agentlightning.span_sequence_id": 2**63 - 1}),
        ),
    )
    assert answer.status == 200
    assert answer.body["partialSuccess"]["rejectedSpans"] == "6"
    message = answer.body["partialSuccess"]["errorMessage"]
    for told in (
        "no `agentlightning.rollout_id`",
        "'ro-unknown'",
        lost.rollout_id,
        "'many'",
        "`step 6`",
        str(2**63 - 1),
    ):
        assert told in message
    assert [span.name for span in await client.query_spans(rollout.rollout_id)] == ["step 1"]
    assert (await client.query_spans(lost.rollout_id)).total == 0


async def test_a_value_that_the_database_refuses_costs_its_attempt_only(postgres: PostgresServer):
    served = LightningStoreServer(SqlLightningStore(postgres.new_database()))
    await served.start()
    try:
        good, bad = await served.start_rollout("good"), await served.start_rollout("bad")
        spans = [json_span(1, ids_of(good)), json_span(2, ids_of(bad), name="a\0b"), json_span(3, ids_of(bad))]
        async with aiohttp.ClientSession() as session:
            answer = await Http(served.endpoint, session).post(TRACES, as_json(*spans))
        assert answer.status == 200
        assert answer.body["partialSuccess"]["rejectedSpans"] == "2"
        assert "can't keep a value" in answer.body["partialSuccess"]["errorMessage"]
        assert [span.name for span in await served.query_spans(good.rollout_id)] == ["step 1"]
        assert (await served.query_spans(bad.rollout_id)).total == 0
    finally:
        await served.close()


async def test_a_store_that_fails_refuses_the_whole_export(server: LightningStoreServer, http: Http):
    rollout = await server.start_rollout("task")
    await server.store.close()
    answer = await http.post(TRACES, as_json(json_span(1, ids_of(rollout)), json_span(2, {})))
    assert answer.status == 410
    assert "closed" in answer.body["detail"]


async def test_an_export_that_is_sent_twice_is_stored_once(http: Http, client: LightningStoreClient):
    rollout = await client.start_rollout("task")
    for _ in range(2):
        answer = await http.post(TRACES, as_json(json_span(1, {}), resource=ids_of(rollout)))
        assert answer.body == {}
    assert (await client.query_spans(rollout.rollout_id)).total == 1


async def test_protobuf_answers_in_protobuf(http: Http):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    export = ExportTraceServiceRequest()
    span = export.resource_spans.add().scope_spans.add().spans.add()
    span.name, span.trace_id, span.span_id = "alone", b"t" * 16, b"s" * 8
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    answer = await http.post(TRACES, data=gzip.compress(export.SerializeToString()), headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-protobuf")
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert partial.rejected_spans == 1
    assert "agentlightning.attempt_id" in partial.error_message


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/x-protobuf", b"\xff\xff nonsense", 400),
        ("application/json", b"{", 400),
        ("application/json", b'{"resourceSpans": 3}', 400),
        ("application/json", b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}', 400),
        ("text/plain", b"{}", 415),
    ],
)
async def test_what_is_no_export_is_refused(http: Http, content_type: str, body: bytes, status: int):
    answer = await http.post(TRACES, data=body, headers={"Content-Type": content_type})
    assert answer.status == status
    assert answer.body["detail"]


async def test_other_signals_are_not_served(http: Http):
    for signal in ("metrics", "logs", "development/profiles"):
        assert (await http.post(f"/v1/{signal}", {})).status == 501
