"""Tracers without a runner: `lifespan`, `trace_run`, `operation_context`, `DummyTracer`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agentlightning.emitter import emit_reward, find_final_reward, operation
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer, clear_active_tracer, set_active_tracer
from agentlightning.tracer import base as tracer_base


@pytest.fixture(params=[Tracer, OtelTracer], ids=lambda kind: kind.__name__)
def tracer(request: pytest.FixtureRequest) -> Tracer:
    return request.param()


async def test_within_its_life_a_tracer_knows_the_store(tracer: Tracer):
    store = InMemoryLightningStore()
    rollout = await store.start_rollout("task")
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    with tracer.lifespan(store):
        assert tracer.worker_id == 0
        async with tracer.trace_context(**ids):
            emit_reward(0.5)
        async with tracer.trace_context("nobody's"):
            emit_reward(0.25)
    async with tracer.trace_context(**ids):
        emit_reward(0.75)
    assert find_final_reward(list(await store.query_spans(rollout.rollout_id))) == 0.5
    assert tracer.worker_id is None


async def test_a_function_is_traced(tracer: Tracer):
    def work(value: float) -> float:
        emit_reward(value)
        return 2 * value

    async def work_async(value: float) -> float:
        return work(value)

    assert tracer.trace_run(work, 0.5) == 1.0
    assert find_final_reward(tracer.get_last_trace()) == 0.5
    assert await tracer.trace_run_async(work_async, value=0.25) == 0.5
    assert find_final_reward(tracer.get_last_trace()) == 0.25
    with pytest.raises(RuntimeError, match="no tracer is active"):
        emit_reward(1.0)


def test_without_an_event_loop(tracer: Tracer):
    assert tracer.trace_run(emit_reward, 0.5).name == "agentlightning.reward"
    assert len(tracer.get_last_trace()) == 1


async def test_an_operation_has_times_attributes_and_status(tracer: Tracer):
    async with tracer.trace_context() as trace:
        with tracer.operation_context("op", {"a": {"b": 1}}, start_time=10.0, end_time=12.5) as recording:
            recording.record_attributes({"c": [1, 2]})
            recording.record_status("ERROR", "half done")
    span = trace.spans[0]
    assert (span.start_time, span.end_time) == (10.0, 12.5)
    assert span.attributes == {"a.b": 1, "c": [1, 2]}
    assert (span.status.status_code, span.status.description) == ("ERROR", "half done")
    assert recording.get_recorded_span().attributes == span.attributes
    with pytest.raises(RuntimeError, match="trace_context"), tracer.operation_context("late"):
        pass


async def test_an_attempt_of_opentelemetry_makes_spans():
    async with OtelTracer().trace_context() as trace:
        with trace.start_as_current_span("outer", attributes={"x": 1}):  # type: ignore[attr-defined]
            trace.start_span("inner").end()  # type: ignore[attr-defined]
    inner, outer = trace.spans
    assert (inner.name, inner.parent_id) == ("inner", outer.span_id)
    assert outer.attributes == {"x": 1}


def test_a_dummy_keeps_nothing():
    dummy = DummyTracer()
    set_active_tracer(dummy)
    try:
        assert emit_reward(1.0).attributes["agentlightning.reward.0.value"] == 1.0
        with operation(name="x") as op:
            op.set_output(3)
    finally:
        clear_active_tracer()
    assert op.span().attributes["agentlightning.operation.output"] == 3
    assert dummy.get_last_trace() == []


def test_there_is_no_langchain_handler(tracer: Tracer, caplog: pytest.LogCaptureFixture):
    tracer_base._say_there_is_no_handler.cache_clear()
    assert [tracer.get_langchain_handler() for _ in range(3)] == [None] * 3
    (said,) = [record for record in caplog.records if "LangChain" in record.message]
    assert "gateway" in said.message


FORKS = """
import asyncio, os, time
import agentlightning as agl

def agent_that_forks():
    import concurrent.futures.thread  # as every lookup of a host name on an event loop does
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    for _ in range(1000):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)

async def main():
    async with agl.OtelTracer().trace_context("first"):
        assert agent_that_forks() == 7

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_program_that_is_traced_may_fork():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], check=True, timeout=60)
