"""Spans go to collectors as well: a real OTLP receiver over HTTP, our own store server, and dead ones."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentlightning.emitter import emit_exception, emit_reward, get_reward_value, operation
from agentlightning.litagent import rollout
from agentlightning.llm_proxy import LLMProxy
from agentlightning.runner import LitAgentRunner
from agentlightning.semconv import attempt_trace_id
from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.tracer import OtelTracer, export
from agentlightning.types import Span, TraceStatus
from agentlightning.utils.server_thread import ThreadedServer

from .conftest import agents_sdk, attempts


class Collector:
    """Keeps what it gets. `hold` makes it answer nothing."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Event()
        self.hold: asyncio.Event | None = None
        self.url = ""

    async def take(self, request: Request) -> Response:
        body = await request.body()
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        self.headers.append(dict(request.headers))
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            said = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += scope.spans
                self.resources += [said] * len(scope.spans)
        return Response(b"", media_type="application/x-protobuf")

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/traces", self.take, methods=["POST"])])

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    server = ThreadedServer("127.0.0.1", None, found.app, name="collector")
    await server.start()
    found.url = f"http://127.0.0.1:{server.port}/v1/traces"
    yield found
    if found.hold is not None:
        server.call_in_loop(found.hold.set)
    await server.stop()


async def test_agent_and_gateway_make_one_trace(proxy: LLMProxy, collector: Collector) -> None:
    tracer = OtelTracer(["openai-agents"], exporter=OTLPSpanExporter(collector.url))
    team = agents_sdk("solver", responses=True)

    async def agent(url: str) -> None:
        await team(url)
        emit_reward(0.5)

    with tracer.lifespan():
        (spans,) = await attempts(tracer, proxy, agent)
    assert collector.names == sorted(span.name for span in spans)
    first = spans[0]
    assert {span.trace_id.hex() for span in collector.spans} == {attempt_trace_id(first.rollout_id, first.attempt_id)}
    by_name = {span.name: span for span in collector.spans}
    assert by_name["solver.agent"].parent_span_id == by_name["Agent Workflow"].span_id
    call = by_name["openai.chat.completion"]
    assert call.kind == by_name["openai.response"].kind == 3  # a client's
    attributes = {pair.key: pair.value for pair in call.attributes}
    assert attributes["gen_ai.response.id"].string_value == "chatcmpl-1"
    assert attributes["gen_ai.usage.input_tokens"].int_value == 3
    assert [pair for pair in call.attributes if pair.value.HasField("array_value")] == [
        pair for pair in call.attributes if pair.key == "gen_ai.response.finish_reasons"
    ]  # no token ids
    assert all(said["service.name"] == "agentlightning" for said in collector.resources)
    assert {said["agentlightning.rollout_id"] for said in collector.resources} == {first.rollout_id}


async def test_everything_of_a_span_arrives(collector: Collector) -> None:
    tracer = OtelTracer(exporter=OTLPSpanExporter(collector.url))
    with tracer.lifespan():
        async with tracer.trace_context() as trace:
            library = otel.get_tracer("a library", "1.2")
            with library.start_as_current_span("outer", attributes={"k": (1, 2)}, kind=otel.SpanKind.PRODUCER) as outer:
                outer.add_event("note", {"x": 1})
                with library.start_as_current_span("inner", links=[otel.Link(outer.get_span_context())]):
                    emit_exception(ValueError("wrong"))
                with operation(name="an operation"):
                    pass
            trace.add(Span.create("by hand", rollout_id="", attempt_id="", trace_id="no number"))
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"outer", "inner", "agentlightning.exception", "agentlightning.operation"}
    outer, inner, error = by_name["outer"], by_name["inner"], by_name["agentlightning.exception"]
    assert (outer.kind, outer.parent_span_id, outer.events[0].name) == (4, b"", "note")
    assert [each.int_value for each in outer.attributes[0].value.array_value.values] == [1, 2]
    assert inner.links[0].span_id == inner.parent_span_id == outer.span_id
    assert error.parent_span_id == inner.span_id
    assert (error.status.code, error.status.message) == (2, "wrong")
    here = {span.span_id: span for span in trace.spans}
    assert outer.start_time_unix_nano == pytest.approx(1e9 * (here[outer.span_id.hex()].start_time or 0))


async def test_our_own_store_is_a_collector(store: InMemoryLightningStore) -> None:
    server = LightningStoreServer(store, host="127.0.0.1", port=None)
    await server.start()
    try:
        tracer = OtelTracer(exporter=OTLPSpanExporter(server.otlp_traces_endpoint()))
        begun = await store.start_rollout("a task")
        ids = {"rollout_id": begun.rollout_id, "attempt_id": begun.attempt.attempt_id}

        async def attempt(**home: Any) -> None:
            async with tracer.trace_context(**ids, **home) as trace:
                emit_reward(0.5)
                trace.add(Span.create("failed", **ids, status=TraceStatus(status_code="ERROR", description="why")))

        tracer.init()
        await attempt()  # spans come by OTLP only
        await attempt(store=store)  # both ways, and are stored once
        await asyncio.to_thread(tracer.teardown)
        spans = await store.query_spans(begun.rollout_id)
        assert [span.name for span in spans] == ["agentlightning.reward", "failed"] * 2
        assert [get_reward_value(span) for span in spans if span.name != "failed"] == [0.5, 0.5]
        assert spans[1].status == spans[3].status
    finally:
        await server.stop()


@pytest.mark.parametrize("how", ["hangs", "refuses"])
async def test_a_dead_collector_costs_an_agent_nothing(
    store: InMemoryLightningStore, collector: Collector, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FLUSH_S", 0.1)
    collector.hold = asyncio.Event()
    url = collector.url if how == "hangs" else "http://127.0.0.1:9/v1/traces"
    tracer = OtelTracer(exporter=OTLPSpanExporter(url, timeout=1))
    begun = await store.start_rollout("a task")
    ids = {"rollout_id": begun.rollout_id, "attempt_id": begun.attempt.attempt_id}
    with tracer.lifespan(store):
        async with tracer.trace_context(**ids):
            for _ in range(3000):
                tracer.create_span("one of many")
        if how == "hangs":
            assert await asyncio.to_thread(collector.asked.wait, 60)
    assert len(await store.query_spans(begun.rollout_id, limit=5000)) == 3000
    assert collector.spans == []


async def test_a_tracer_exports_again_after_its_end(collector: Collector) -> None:
    tracer = OtelTracer(exporter=OTLPSpanExporter(collector.url))

    async def attempt(name: str) -> None:
        async with tracer.trace_context():
            tracer.create_span(name)

    for name in ("first", "second"):
        with tracer.lifespan():
            await attempt(name)
    other = OtelTracer()
    async with other.trace_context():
        other.create_span("nobody exports")
    await asyncio.to_thread(export.flush)
    assert collector.names == ["first", "second"]


PROGRAM = """
import asyncio, logging
from agentlightning.emitter import emit_reward
from agentlightning.tracer import OtelTracer

logging.basicConfig(level="WARNING")

async def main():
    async with OtelTracer().trace_context():
        emit_reward(1.0)

asyncio.run(main())
"""


async def run(**variables: str) -> str:
    """What the program says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


async def test_opentelemetrys_variables_name_the_collector(collector: Collector) -> None:
    base = collector.url.removesuffix("/v1/traces")
    await run(OTEL_EXPORTER_OTLP_ENDPOINT=base, OTEL_EXPORTER_OTLP_HEADERS="x-token=abc")
    await run(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.url, OTEL_SERVICE_NAME="mine")
    assert collector.names == ["agentlightning.reward"] * 2
    assert [headers.get("x-token") for headers in collector.headers] == ["abc", None]
    assert [said["service.name"] for said in collector.resources] == ["agentlightning", "mine"]


async def test_what_is_not_exported_is_said_or_wanted(collector: Collector) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url}
    said = await run(**endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert "`OTEL_EXPORTER_OTLP_PROTOCOL` is 'grpc', and only `http/protobuf` is spoken here" in said
    assert await run(**endpoint, OTEL_TRACES_EXPORTER="none") == ""
    assert await run(**endpoint, OTEL_SDK_DISABLED="true") == ""
    assert collector.spans == []


async def test_any_exporter_of_opentelemetry_will_do(tmp_path: Any) -> None:
    with (tmp_path / "spans.txt").open("w") as file:
        tracer = OtelTracer(exporter=ConsoleSpanExporter(out=file))
        tracer.trace_run(emit_reward, 0.5)
        tracer.teardown()
    assert "agentlightning.reward" in (tmp_path / "spans.txt").read_text()


async def test_what_an_agent_returns_or_raises_is_exported_too(
    store: InMemoryLightningStore, collector: Collector
) -> None:
    @rollout
    def agent(task: float) -> float:
        return 1 / task

    runner = LitAgentRunner[float](OtelTracer(exporter=OTLPSpanExporter(collector.url)))
    with runner.run_context(agent=agent, store=store):
        await runner.step(4.0)
        with pytest.raises(ZeroDivisionError):
            await runner.step(0.0)
    assert collector.names == ["agentlightning.exception", "agentlightning.reward"]
