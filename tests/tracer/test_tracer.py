"""Attempts that run at once never mix, whatever they run in."""

import asyncio
import contextvars
import threading
from collections.abc import Sequence

import pytest
from opentelemetry import trace as otel

from agentlightning.emitter import emit_message, emit_reward, find_final_reward
from agentlightning.semconv import attempt_trace_id
from agentlightning.store.base import LightningStore
from agentlightning.tracer import OtelTracer, Tracer, get_active_tracer
from agentlightning.types import Span


class RecordingStore(LightningStore):
    """Keeps the batches that it is given, and can be made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[Span]] = []
        self.failures = 0
        self.turns = 1
        """How many turns of the event loop a call takes."""

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the store is down")
        self.batches.append(list(spans))
        return spans


@pytest.fixture(params=[Tracer, OtelTracer])
def tracer(request: pytest.FixtureRequest) -> Tracer:
    return request.param()


async def test_two_threads_emitting_at_once_do_not_mix(tracer: Tracer):
    barrier = threading.Barrier(2)

    def agent(value: float) -> None:
        for _ in range(50):
            barrier.wait()
            emit_reward(value)

    async def attempt(name: str, value: float) -> list[Span]:
        async with tracer.trace_context(rollout_id=name, attempt_id=f"at-{name}") as trace:
            await asyncio.to_thread(agent, value)
        return trace.spans

    for name, spans in zip("ab", await asyncio.gather(attempt("a", 1.0), attempt("b", 2.0)), strict=True):
        assert [s.attributes["agentlightning.reward.0.value"] for s in spans] == [1.0 if name == "a" else 2.0] * 50
        assert {(s.rollout_id, s.attempt_id, s.trace_id) for s in spans} == {
            (name, f"at-{name}", attempt_trace_id(name, f"at-{name}"))
        }


async def test_two_tasks_emitting_at_once_do_not_mix(tracer: Tracer):
    async def attempt(name: str) -> list[Span]:
        async with tracer.trace_context(rollout_id=name, attempt_id=name):
            for _ in range(20):
                await asyncio.sleep(0)
                emit_message(name)
            return tracer.get_last_trace()

    for name, spans in zip("abc", await asyncio.gather(*map(attempt, "abc")), strict=True):
        assert [s.attributes["agentlightning.message.body"] for s in spans] == [name] * 20


async def test_spans_reach_the_store_in_one_call(tracer: Tracer):
    store = RecordingStore()
    async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store):
        for index in range(20):
            emit_message(str(index))
        assert store.batches == []
    assert [[s.attributes["agentlightning.message.body"] for s in b] for b in store.batches] == [
        [str(i) for i in range(20)]
    ]
    assert all(s.sequence_id == 0 and s.parent_id is None for s in store.batches[0])


async def test_a_thread_that_emits_a_reward_goes_on_once_the_store_has_it(tracer: Tracer):
    store = RecordingStore()
    store.turns = 1000
    seen: list[int] = []

    def agent() -> None:
        emit_message("before")
        emit_reward(0.5)
        seen.append(sum(map(len, store.batches)))
        emit_message("after")

    async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store):
        await asyncio.to_thread(agent)
    assert seen == [2]
    assert [len(batch) for batch in store.batches] == [2, 1]


async def test_a_task_that_emits_a_reward_has_it_sent_while_it_waits(tracer: Tracer):
    store = RecordingStore()
    async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store):
        emit_reward(0.5)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [len(batch) for batch in store.batches] == [1]
    assert [len(batch) for batch in store.batches] == [1]


async def test_spans_survive_a_store_that_fails_once(tracer: Tracer):
    store = RecordingStore()
    store.failures = 1

    def agent() -> None:
        emit_message("first")
        emit_reward(0.5)

    async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store):
        await asyncio.to_thread(agent)
    assert [s.name for s in store.batches[0]] == ["agentlightning.message", "agentlightning.reward"]


async def test_a_store_that_stays_down_is_not_hidden(tracer: Tracer):
    store = RecordingStore()
    store.failures = 1
    with pytest.raises(ConnectionError, match="the store is down"):
        async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store):
            emit_message("lost?")


async def test_an_exception_within_still_sends_the_spans(tracer: Tracer):
    store = RecordingStore()

    async def attempt() -> None:
        async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store):
            emit_message("before")
            raise KeyError

    with pytest.raises(KeyError):
        await attempt()
    assert len(store.batches) == 1


async def test_what_comes_after_the_end_is_dropped(tracer: Tracer):
    store = RecordingStore()
    go, gone = threading.Event(), threading.Event()

    def late() -> None:
        go.wait()
        emit_reward(1.0)
        gone.set()

    async with tracer.trace_context(rollout_id="r", attempt_id="a", store=store) as trace:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
        thread.start()
        emit_message("in time")
    go.set()
    assert await asyncio.to_thread(gone.wait, 30)
    thread.join()
    assert [s.name for s in trace.spans] == ["agentlightning.message"]
    assert [len(b) for b in store.batches] == [1]


async def test_one_attempt_at_a_time_in_one_context(tracer: Tracer):
    async with tracer.trace_context():
        assert get_active_tracer() is tracer
        with pytest.raises(ValueError, match="active in this context already"):
            async with tracer.trace_context():
                pass
    assert get_active_tracer() is None
    with pytest.raises(RuntimeError, match="trace_context"):
        tracer.create_span("late")


async def test_the_last_trace_can_be_read_after_the_attempt(tracer: Tracer):
    assert tracer.get_last_trace() == []
    async with tracer.trace_context("debug"):
        emit_reward(0.25)
    assert find_final_reward(tracer.get_last_trace()) == 0.25


async def test_a_store_needs_ids(tracer: Tracer):
    with pytest.raises(ValueError, match="`rollout_id` and `attempt_id`"):
        async with tracer.trace_context(store=RecordingStore()):
            pass


async def test_spans_made_through_the_global_api_are_caught():
    async with OtelTracer().trace_context(rollout_id="r", attempt_id="a") as trace:
        library = otel.get_tracer("a library")
        with library.start_as_current_span("outer", attributes={"k": (1, 2)}) as outer:
            emit_reward(1.0)
            with pytest.raises(ZeroDivisionError), library.start_as_current_span("inner"):
                raise ZeroDivisionError("by zero")
            outer.add_event("note", {"x": 1})
    reward, inner, outer_span = trace.spans
    assert [reward.name, inner.name, outer_span.name] == ["agentlightning.reward", "inner", "outer"]
    assert reward.parent_id == inner.parent_id == outer_span.span_id
    assert outer_span.parent_id is None
    assert len({s.trace_id for s in trace.spans}) == 1
    assert outer_span.attributes == {"k": [1, 2]}
    assert outer_span.events[0].name == "note"
    assert inner.status.status_code == "ERROR"
    assert inner.events[0].attributes["exception.type"] == "ZeroDivisionError"
    assert inner.start_time is not None
    assert inner.end_time is not None
    assert inner.end_time >= inner.start_time


async def test_a_root_span_belongs_to_the_attempt_it_was_started_in():
    from opentelemetry.context import Context

    library = otel.get_tracer("a library")
    async with OtelTracer().trace_context(rollout_id="r", attempt_id="a") as trace:
        library.start_span("root", context=Context()).end()
    library.start_span("outside").end()
    assert [(s.name, s.parent_id) for s in trace.spans] == [("root", None)]


async def test_a_span_that_ends_too_late_is_dropped_and_leaves_nothing_behind():
    from agentlightning.tracer import provider as room

    async with OtelTracer().trace_context(rollout_id="r", attempt_id="a") as trace:
        span = otel.get_tracer("a library").start_span("never ended in time")
    span.end()
    assert trace.spans == []
    assert room.processor.attempts == {}
