"""OpenTelemetry's objects as ours, and back from the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore
from agentlightning.types import Link, OtelResource, Span, SpanContext, TraceStatus


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LightningStore]:
    home = InMemoryLightningStore() if request.param == "memory" else SqlLightningStore(tmp_path / "store.sqlite")
    yield home
    await home.close()


def finished_span() -> ReadableSpan:
    provider = TracerProvider(resource=Resource({"service.name": "agent"}, "http://schema"), shutdown_on_exit=False)
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("outer") as outer:
        link = trace.Link(outer.get_span_context(), {"why": "follows"})
        span = tracer.start_span(
            "inner", attributes={"list": (1, 2), "text": "x"}, links=[link], start_time=1_500_000_000
        )
        span.add_event("noted", {"n": 1}, timestamp=2_000_000_000)
        span.set_status(trace.StatusCode.ERROR, "broke")
        span.end(2_500_000_000)
    assert isinstance(span, ReadableSpan)
    return span


def test_everything_of_a_span_is_kept():
    source = finished_span()
    span = Span.from_opentelemetry(source, "ro", "at", 7)
    assert (span.name, span.rollout_id, span.attempt_id, span.sequence_id) == ("inner", "ro", "at", 7)
    assert (span.start_time, span.end_time) == (1.5, 2.5)
    assert span.attributes == {"list": [1, 2], "text": "x"}
    assert span.status == TraceStatus(status_code="ERROR", description="broke")
    assert [(e.name, e.attributes, e.timestamp) for e in span.events] == [("noted", {"n": 1}, 2.0)]
    assert span.resource == OtelResource(attributes={"service.name": "agent"}, schema_url="http://schema")
    assert source.parent is not None
    assert span.parent_id == f"{source.parent.span_id:016x}"
    assert span.parent == SpanContext(trace_id=span.trace_id, span_id=span.parent_id)
    assert span.context.span_id == span.span_id
    assert span.links == [Link(context=span.parent, attributes={"why": "follows"})]
    assert Span.model_validate_json(span.model_dump_json()) == span


async def test_a_store_takes_a_span_of_opentelemetry(store: LightningStore):
    rollout = await store.start_rollout("task")
    ids = (rollout.rollout_id, rollout.attempt.attempt_id)
    source = finished_span()
    stored = await store.add_otel_span(*ids, source)
    assert await store.add_otel_span(*ids, source, 5) is None
    (found,) = await store.query_spans(rollout.rollout_id)
    assert stored == found == Span.from_opentelemetry(source, *ids, 1)


def test_a_resource_may_be_given_as_its_attributes():
    ids = {"rollout_id": "r", "attempt_id": "a", "trace_id": "0" * 32, "span_id": "0" * 16}
    span = Span.model_validate({"name": "x", "resource": {"service.name": "agent"}, **ids})
    assert span.resource == OtelResource(attributes={"service.name": "agent"})
    assert Span.model_validate(span.model_dump()) == span
    assert Span.model_validate({"name": "x", "context": None, "parent": None, **ids}).parent is None


def test_a_span_made_of_attributes():
    span = Span.from_attributes(attributes={"a": 1})
    assert (span.name, len(span.trace_id), len(span.span_id)) == ("agentlightning.virtual", 32, 16)
    assert span.start_time is not None


def test_attributes_that_no_span_of_ours_can_hold_become_text_or_nothing():
    source = ReadableSpan(
        "s",
        trace.SpanContext(1, 2, is_remote=False),
        attributes={"none": None, "bytes": b"ab", "nested": {"a": (1, b"c")}, "mixed": (1, "x"), "list": (1, 2)},  # type: ignore[dict-item]
    )
    assert Span.from_opentelemetry(source, "r", "a").attributes == {
        "bytes": "YWI=",
        "nested": '{"a":[1,"Yw=="]}',
        "mixed": '[1,"x"]',
        "list": [1, 2],
    }
