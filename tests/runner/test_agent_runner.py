"""`LitAgentRunner` against the memory store: what ends up there, whatever an agent does."""

import asyncio
import math
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace as otel

from agentlightning.emitter import emit_message, emit_reward, find_final_reward
from agentlightning.execution import ThreadingEvent
from agentlightning.litagent import LitAgent, rollout
from agentlightning.runner import Hook, LitAgentRunner
from agentlightning.semconv import attempt_trace_id
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import (
    LLM,
    AttemptedRollout,
    ProxyLLM,
    Rollout,
    RolloutConfig,
    Span,
    SpanCoreFields,
    StoreClosedError,
    StoreUnavailableError,
)

PROXY = ProxyLLM(endpoint="http://127.0.0.1:1/v1", model="m")


@pytest.fixture
async def store() -> InMemoryLightningStore:
    store = InMemoryLightningStore()
    await store.add_resources({"main_llm": PROXY})
    return store


def new_runner(**options: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner(OtelTracer(), **options)


@asynccontextmanager
async def running(
    agent: LitAgent[Any], store: InMemoryLightningStore, hooks: Sequence[Hook] = (), **options: Any
) -> AsyncGenerator[LitAgentRunner[Any], None]:
    """A runner that works in the background and is stopped by its event."""
    event = ThreadingEvent()
    with new_runner(**options).run_context(agent=agent, store=store, hooks=hooks) as runner:
        work = asyncio.create_task(runner.iter(event=event))
        try:
            yield runner
        finally:
            event.set()
            await work


async def run_one(agent: LitAgent[Any], store: InMemoryLightningStore, task: Any = "task", **request: Any) -> Rollout:
    """One rollout from the queue to its end."""
    async with running(agent, store):
        queued = await store.enqueue_rollout(task, **request)
        (done,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
    return done


async def error_of(store: InMemoryLightningStore, done: Rollout) -> dict[str, str]:
    """The error on the attempt, which must be the one in the exception span."""
    attempt = await store.get_latest_attempt(done.rollout_id)
    assert attempt is not None
    assert attempt.metadata is not None
    error = attempt.metadata["error"]
    (span,) = await store.query_spans(done.rollout_id, "latest", name="agentlightning.exception")
    assert span.attributes == {
        "exception.type": error["type"],
        "exception.message": error["message"],
        "exception.stacktrace": error["traceback"],
    }
    assert span.status.status_code == "ERROR"
    return error


async def reward_of(store: InMemoryLightningStore, done: Rollout) -> float | None:
    return find_final_reward(await store.query_spans(done.rollout_id, "latest"))


# -- agents that do well --------------------------------------------------------------------------------------------


@rollout
def sync_function(task: float, llm: LLM) -> float:
    assert threading.current_thread() is not threading.main_thread()
    return task


@rollout
async def async_function(task: float, llm: LLM) -> float:
    await asyncio.sleep(0)
    return task


class SyncClass(LitAgent[float]):
    def rollout(self, task: float, resources: Any, rollout: AttemptedRollout) -> float:
        return task


class AsyncClass(LitAgent[float]):
    async def rollout_async(self, task: float, resources: Any, rollout: AttemptedRollout) -> float:
        return task


@pytest.mark.parametrize("agent", [sync_function, async_function, SyncClass(), AsyncClass()])
async def test_every_kind_of_agent(store: InMemoryLightningStore, agent: LitAgent[Any]):
    done = await run_one(agent, store, 0.25)
    assert done.status == "succeeded"
    assert await reward_of(store, done) == 0.25
    (span,) = await store.query_spans(done.rollout_id)
    assert span.sequence_id == 1
    attempt = await store.get_latest_attempt(done.rollout_id)
    assert attempt is not None
    assert attempt.status == "succeeded"
    assert attempt.worker_id == "Worker-0"
    assert span.trace_id == attempt_trace_id(done.rollout_id, attempt.attempt_id)


@pytest.mark.parametrize(("value", "reward"), [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (None, None)])
async def test_what_may_be_returned(store: InMemoryLightningStore, value: Any, reward: float | None):
    @rollout
    def agent(task: Any, llm: LLM) -> Any:
        return value

    done = await run_one(agent, store)
    assert done.status == "succeeded"
    assert await reward_of(store, done) == reward


async def test_spans_may_be_returned(store: InMemoryLightningStore):
    @rollout
    def agent(task: Any, rollout: AttemptedRollout) -> list[Any]:
        with otel.get_tracer("library").start_as_current_span("recorded and returned") as recorded:
            pass
        return [
            SpanCoreFields(name="core", attributes={"x": 1}, start_time=1.0, end_time=2.0),
            Span.create("foreign ids", rollout_id="other", attempt_id="other"),
            emit_reward(0.5, propagate=False),
            recorded,
        ]

    done = await run_one(agent, store)
    spans = await store.query_spans(done.rollout_id, "latest")
    assert [s.name for s in spans] == ["recorded and returned", "core", "foreign ids", "agentlightning.reward"]
    assert (spans[1].attributes, spans[1].start_time, spans[1].end_time) == ({"x": 1}, 1.0, 2.0)
    assert await reward_of(store, done) == 0.5


async def test_an_empty_list_is_no_failure_but_is_said(store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture):
    @rollout
    def agent(task: Any, llm: LLM) -> list[Any]:
        return []

    assert (await run_one(agent, store)).status == "succeeded"
    assert "returned an empty list of spans" in caplog.text


async def test_a_decorated_agent_gets_the_llm_of_its_attempt(store: InMemoryLightningStore):
    seen: list[tuple[LLM, AttemptedRollout]] = []

    @rollout
    def agent(task: Any, llm: LLM, rollout: AttemptedRollout) -> float:
        seen.append((llm, rollout))
        return 1.0

    await run_one(agent, store)
    ((llm, given),) = seen
    assert type(llm) is LLM
    assert llm.endpoint == f"http://127.0.0.1:1/rollout/{given.rollout_id}/attempt/{given.attempt.attempt_id}/v1"


async def test_a_class_agent_gets_the_proxy_and_knows_its_runner(store: InMemoryLightningStore):
    class Agent(LitAgent[Any]):
        def rollout(self, task: Any, resources: Any, rollout: AttemptedRollout) -> None:
            llm = resources["main_llm"]
            assert isinstance(llm, ProxyLLM)
            emit_message(llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id))
            emit_message(type(self.tracer).__name__)
            emit_message(type(self.runner).__name__)
            emit_reward(0.5)

    done = await run_one(Agent(), store)
    assert await reward_of(store, done) == 0.5
    bodies = [s.attributes.get("agentlightning.message.body") for s in await store.query_spans(done.rollout_id)]
    assert bodies[1:3] == ["OtelTracer", "LitAgentRunner"]


async def test_the_mode_chooses_the_method_and_the_id_the_resources(store: InMemoryLightningStore):
    class Agent(LitAgent[Any]):
        def training_rollout(self, task: Any, resources: Any, rollout: AttemptedRollout) -> float:
            return float(resources["main_llm"].model == "m")

        async def validation_rollout_async(self, task: Any, resources: Any, rollout: AttemptedRollout) -> float:
            return 10 + float(resources["main_llm"].model == "older")

    older = await store.add_resources({"main_llm": LLM(endpoint="http://x", model="older")})
    await store.add_resources({"main_llm": PROXY})
    done = await run_one(Agent(), store, mode="train")
    assert await reward_of(store, done) == 1.0
    done = await run_one(Agent(), store, mode="val", resources_id=older.resources_id)
    assert await reward_of(store, done) == 11.0


async def test_rewards_lie_between_the_calls_that_they_follow(store: InMemoryLightningStore):
    """The gateway writes an LLM call when it is made; the order in the store must be that of the agent."""
    loop = asyncio.get_running_loop()

    def gateway_call(rollout: AttemptedRollout) -> None:
        span = Span.create("call", rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id)
        asyncio.run_coroutine_threadsafe(store.add_span(span), loop).result()

    @rollout
    def agent(task: Any, rollout: AttemptedRollout) -> float:
        for turn in range(3):
            gateway_call(rollout)
            emit_reward(float(turn))
        gateway_call(rollout)
        return 9.0

    done = await run_one(agent, store)
    spans = await store.query_spans(done.rollout_id)
    assert [s.attributes.get("agentlightning.reward.0.value", s.name) for s in spans] == [
        *("call", 0.0, "call", 1.0, "call", 2.0),
        *("call", 9.0),
    ]


# -- agents that do badly -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("42", "TypeError", "the agent returned str ('42'); an agent returns a finite number"),
        (math.nan, "RewardError", "the agent returned float (nan); an agent returns a finite number"),
        (-math.inf, "RewardError", "the agent returned float (-inf)"),
        ({"reward": 1.0}, "TypeError", "the agent returned dict ({'reward': 1.0})"),
        ([0.5], "TypeError", "the agent returned a list with float (0.5)"),
    ],
)
async def test_what_may_not_be_returned_fails_the_attempt(
    store: InMemoryLightningStore, value: Any, kind: str, message: str
):
    @rollout
    def agent(task: Any, llm: LLM) -> Any:
        emit_message("kept")
        return value

    done = await run_one(agent, store)
    assert done.status == "failed"
    error = await error_of(store, done)
    assert error["type"] == kind
    assert error["message"].startswith(message)
    assert "or `None` if it emitted its reward" in error["message"]
    assert await reward_of(store, done) is None
    assert (await store.query_spans(done.rollout_id))[0].name == "agentlightning.message"


def broken_sync(task: Any, llm: LLM) -> float:
    emit_reward(0.5)
    raise KeyError("lost")


async def broken_async(task: Any, llm: LLM) -> float:
    emit_reward(0.5)
    raise KeyError("lost")


@pytest.mark.parametrize("function", [broken_sync, broken_async])
async def test_an_agent_that_raises_is_a_failed_attempt(store: InMemoryLightningStore, function: Any):
    done = await run_one(rollout(function), store)
    assert done.status == "failed"
    error = await error_of(store, done)
    assert (error["type"], error["message"]) == ("KeyError", "'lost'")
    assert function.__name__ in error["traceback"]
    assert await reward_of(store, done) == 0.5


async def test_the_runner_goes_on_after_failures(store: InMemoryLightningStore):
    @rollout
    async def agent(task: int, llm: LLM) -> float:
        if task % 2:
            raise SystemExit(1)
        return 1.0

    async with running(agent, store):
        ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(6)]
        done = await store.wait_for_rollouts(rollout_ids=ids, timeout=30)
    status = {d.rollout_id: d.status for d in done}
    assert [status[i] for i in ids] == ["succeeded", "failed"] * 3


async def test_a_bad_rollout_is_tried_again_if_its_config_says_so(store: InMemoryLightningStore):
    tries: list[int] = []

    @rollout
    def agent(task: Any, rollout: AttemptedRollout) -> float:
        tries.append(rollout.attempt.sequence_id)
        if len(tries) < 3:
            raise OSError("flaky")
        return 1.0

    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    done = await run_one(agent, store, config=config)
    assert (tries, done.status) == ([1, 2, 3], "succeeded")
    assert [a.status for a in await store.query_attempts(done.rollout_id)] == ["failed", "failed", "succeeded"]


async def test_no_resources_is_a_failure_that_says_so():
    store = InMemoryLightningStore()
    for agent in (sync_function, SyncClass()):
        done = await run_one(agent, store)
        error = await error_of(store, done)
        assert error["type"] == "MissingResources"
        assert "the store has no resources, and the agent needs some; call `store.add_resources" in error["message"]


async def test_an_agent_that_asks_for_none_needs_no_resources():
    @rollout
    def agent(task: Any) -> float:
        return 1.0

    assert (await run_one(agent, InMemoryLightningStore())).status == "succeeded"


async def test_a_slow_async_agent_times_out(store: InMemoryLightningStore):
    @rollout
    async def agent(task: Any, llm: LLM) -> float:
        emit_message("before")
        await asyncio.Event().wait()
        return 1.0

    done = await run_one(agent, store, config=RolloutConfig(timeout_seconds=0.05))
    assert done.status == "failed"
    attempt = await store.get_latest_attempt(done.rollout_id)
    assert attempt is not None
    assert attempt.status == "timeout"
    assert (await error_of(store, done))["type"] == "AgentTimeout"
    names = [s.name for s in await store.query_spans(done.rollout_id)]
    assert names == ["agentlightning.message", "agentlightning.exception"]


async def test_a_slow_sync_agent_times_out_and_what_it_does_later_is_ignored(store: InMemoryLightningStore):
    release, ended = threading.Event(), threading.Event()

    @rollout
    def agent(task: Any, llm: LLM) -> float:
        if task == "quick":
            return 1.0
        release.wait()
        emit_reward(0.5)
        ended.set()
        return 1.0

    async with running(agent, store):
        slow = await store.enqueue_rollout("slow", config=RolloutConfig(timeout_seconds=0.05))
        quick = await store.enqueue_rollout("quick")
        done = await store.wait_for_rollouts(rollout_ids=[slow.rollout_id, quick.rollout_id], timeout=30)
        assert sorted(d.status for d in done) == ["failed", "succeeded"]
        release.set()
        assert await asyncio.to_thread(ended.wait, 30)
    attempt = await store.get_latest_attempt(slow.rollout_id)
    assert attempt is not None
    assert attempt.status == "timeout"
    assert await reward_of(store, done[0] if done[0].rollout_id == slow.rollout_id else done[1]) is None


# -- many at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_rollouts_at_once_do_not_mix(store: InMemoryLightningStore, is_async: bool):
    n = 8
    barrier, arrived, all_here = threading.Barrier(n), 0, asyncio.Event()

    def say(task: int) -> None:
        for part in range(5):
            emit_message(f"{task}.{part}")
        emit_reward(task)

    @rollout
    def sync_agent(task: int, llm: LLM) -> None:
        barrier.wait(30)
        say(task)

    @rollout
    async def async_agent(task: int, llm: LLM) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == n:
            all_here.set()
        await all_here.wait()
        say(task)

    async with running(async_agent if is_async else sync_agent, store, max_concurrency=n):
        queued = [await store.enqueue_rollout(i) for i in range(n)]
        done = await store.wait_for_rollouts(rollout_ids=[q.rollout_id for q in queued], timeout=30)
    assert len(done) == n
    for task, one in enumerate(queued):
        spans = await store.query_spans(one.rollout_id)
        assert [s.attributes.get("agentlightning.message.body") for s in spans[:5]] == [f"{task}.{p}" for p in range(5)]
        assert find_final_reward(spans) == task


async def test_never_more_at_once_than_allowed(store: InMemoryLightningStore):
    now, most = 0, 0

    @rollout
    async def agent(task: int, llm: LLM) -> float:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return 1.0

    async with running(agent, store, max_concurrency=3):
        queued = [await store.enqueue_rollout(i) for i in range(20)]
        await store.wait_for_rollouts(rollout_ids=[q.rollout_id for q in queued], timeout=30)
    assert most == 3


async def test_max_rollouts(store: InMemoryLightningStore):
    ids = [(await store.enqueue_rollout(0.5)).rollout_id for _ in range(5)]
    with new_runner(max_rollouts=3, max_concurrency=2).run_context(agent=sync_function, store=store) as runner:
        await runner.iter()
    assert [(await store.get_rollout_by_id(i)).status for i in ids] == ["succeeded"] * 3 + ["queuing"] * 2  # type: ignore[union-attr]


# -- stopping -------------------------------------------------------------------------------------------------------


async def test_an_event_ends_the_wait_for_work(store: InMemoryLightningStore):
    """With a wait of an hour per request this test ends only if the event ends the wait."""
    event = ThreadingEvent()
    with new_runner(poll_interval=3600.0).run_context(agent=sync_function, store=store) as runner:
        work = asyncio.create_task(runner.iter(event=event))
        queued = await store.enqueue_rollout(0.5)
        await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
        threading.Thread(target=event.set).start()
        await asyncio.wait_for(work, 30)
    later = await store.enqueue_rollout(0.5)
    assert later.status == "queuing"
    assert (await store.dequeue_rollout()) is not None


async def test_a_set_event_takes_nothing(store: InMemoryLightningStore):
    event = ThreadingEvent()
    event.set()
    await store.enqueue_rollout(0.5)
    with new_runner().run_context(agent=sync_function, store=store) as runner:
        await runner.iter(event=event)
    assert (await store.dequeue_rollout()) is not None


async def test_rollouts_under_way_are_finished(store: InMemoryLightningStore):
    started, release, event = asyncio.Event(), asyncio.Event(), ThreadingEvent()

    @rollout
    async def agent(task: Any, llm: LLM) -> float:
        started.set()
        await release.wait()
        return 1.0

    queued = await store.enqueue_rollout(1)
    with new_runner().run_context(agent=agent, store=store) as runner:
        work = asyncio.create_task(runner.iter(event=event))
        await started.wait()
        event.set()
        asyncio.get_running_loop().call_later(0.01, release.set)
        await work
    assert (await store.get_rollout_by_id(queued.rollout_id)).status == "succeeded"  # type: ignore[union-attr]


async def test_a_cancelled_runner_says_why_the_attempt_failed(store: InMemoryLightningStore):
    started = asyncio.Event()

    @rollout
    async def agent(task: Any, llm: LLM) -> float:
        emit_message("kept")
        started.set()
        await asyncio.Event().wait()
        return 1.0

    queued = await store.enqueue_rollout(1)
    with new_runner().run_context(agent=agent, store=store) as runner:
        work = asyncio.create_task(runner.iter())
        await started.wait()
        work.cancel()
        await asyncio.wait({work})
    assert work.cancelled()
    attempt = await store.get_latest_attempt(queued.rollout_id)
    assert attempt is not None
    assert attempt.status == "unresponsive"
    assert attempt.metadata is not None
    assert attempt.metadata["error"]["type"] == "RunnerStopped"
    assert [s.name for s in await store.query_spans(queued.rollout_id)] == ["agentlightning.message"]


async def test_an_error_of_the_store_ends_the_runner(store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch):
    async def down(*args: Any, **options: Any) -> None:
        raise ConnectionError("the store is down")

    monkeypatch.setattr(store, "add_many_spans", down)
    await store.enqueue_rollout(0.5)
    with (
        new_runner().run_context(agent=sync_function, store=store) as runner,
        pytest.raises(ConnectionError, match="the store is down"),
    ):
        await runner.iter()


# -- step -----------------------------------------------------------------------------------------------------------


async def test_step_returns_the_finished_rollout(store: InMemoryLightningStore):
    @rollout
    def agent(task: str, llm: LLM) -> float:
        return float(llm.model == task)

    with new_runner().run_context(agent=agent, store=store, worker_id=3) as runner:
        done = await runner.step("m", mode="val")
        assert (done.status, done.mode, await reward_of(store, done)) == ("succeeded", "val", 1.0)
        done = await runner.step("n", resources={"x": LLM(endpoint="http://x", model="n")})
        assert await reward_of(store, done) == 1.0
        assert isinstance(done, AttemptedRollout)
        assert done.attempt.worker_id == "Worker-3"


async def test_step_raises_what_the_agent_raises_and_stores_it(store: InMemoryLightningStore):
    runner = new_runner()
    with runner.run_context(agent=rollout(broken_sync), store=store), pytest.raises(KeyError, match="lost"):
        await runner.step("task")
    (done,) = await store.query_rollouts(status_in=["failed"])
    assert (await error_of(store, done))["type"] == "KeyError"


async def test_a_step_can_be_stopped(store: InMemoryLightningStore):
    event, started = ThreadingEvent(), asyncio.Event()

    @rollout
    async def agent(task: Any, llm: LLM) -> None:
        started.set()
        await asyncio.Event().wait()

    with new_runner().run_context(agent=agent, store=store) as runner:
        step = asyncio.create_task(runner.step("task", event=event))
        await started.wait()
        event.set()
        with pytest.raises(RuntimeError, match="stopped before the agent finished"):
            await step
    assert len(await store.query_rollouts(status_in=["failed"])) == 1


# -- hooks and heartbeats -------------------------------------------------------------------------------------------


class Recorder(Hook):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Any) -> None:
        self.seen.append(f"start {rollout.input} {type(agent).__name__} {runner.worker_id}")

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
        emit_message("from a hook")
        self.seen.append(f"trace {type(tracer).__name__}")

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
        emit_reward(0.75)
        self.seen.append("traced")

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
        stored = await runner.store.get_rollout_by_id(rollout.rollout_id)
        self.seen.append(f"end {[s.name for s in spans]} {stored.status}")


class Broken(Hook):
    async def on_rollout_start(self, **_: Any) -> None:
        raise OSError("hook 1")

    async def on_trace_end(self, **_: Any) -> None:
        raise OSError("hook 2")


async def test_hooks_come_in_order_and_can_emit(store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture):
    recorder = Recorder()
    async with running(SyncClass(), store, hooks=[Broken(), recorder]):
        queued = await store.enqueue_rollout(0.5)
        (done,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
    names = ["agentlightning.message", "agentlightning.reward", "agentlightning.reward"]
    assert recorder.seen == ["start 0.5 SyncClass Worker-0", "trace OtelTracer", "traced", f"end {names} running"]
    assert done.status == "succeeded"
    assert await reward_of(store, done) == 0.75
    assert "`Broken.on_rollout_start` failed; the rollout goes on" in caplog.text
    assert "`Broken.on_trace_end` failed; the rollout goes on" in caplog.text


class Moments(Hook):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_trace_end(self, *, rollout: Any, **_: Any) -> None:
        emit_message("cut off")
        self.seen.append("traced")

    async def on_rollout_end(self, *, spans: Any, **_: Any) -> None:
        self.seen.append(f"end {[span.name for span in spans]}")


@pytest.mark.parametrize(("what", "stored"), [("runner", ["agentlightning.message"]), ("rollout", []), ("store", [])])
async def test_hooks_see_the_end_of_an_attempt_that_is_cut_off(
    store: InMemoryLightningStore, what: str, stored: list[str]
):
    started, moments = asyncio.Event(), Moments()

    @rollout
    async def agent(task: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    queued = await store.enqueue_rollout(1)
    with new_runner(heartbeat_interval=0.01).run_context(agent=agent, store=store, hooks=[moments]) as runner:
        work = asyncio.create_task(runner.iter())
        await started.wait()
        if what == "rollout":
            await store.update_rollout(queued.rollout_id, status="cancelled")
            async with asyncio.timeout(30):
                while len(moments.seen) < 2:  # noqa: ASYNC110  # it has no event
                    await asyncio.sleep(0.01)
        if what == "store":
            await store.close()
        else:
            work.cancel()
        await asyncio.wait({work}, timeout=30)
    assert work.done()
    assert moments.seen == ["traced", f"end {stored}"]


class Beaten(InMemoryLightningStore):
    """Says when an attempt has had a heartbeat."""

    def __init__(self) -> None:
        super().__init__()
        self.beaten = ThreadingEvent()

    async def update_attempt(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().update_attempt(*args, **options)
        finally:
            if not options:
                self.beaten.set()


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
async def test_heartbeats_tell_of_the_worker_and_of_long_attempts(mode: str):
    release = asyncio.Event()
    store = Beaten()

    @rollout
    async def agent(task: Any) -> float:
        await store.beaten.wait_async()
        release.set()
        return 1.0

    async with running(agent, store, heartbeat_interval=0.01, heartbeat_launch_mode=mode):
        queued = await store.enqueue_rollout(1)
        await asyncio.wait_for(release.wait(), 30)
        worker = await store.get_worker_by_id("Worker-0")
        attempt = await store.get_latest_attempt(queued.rollout_id)
    assert worker is not None
    assert worker.last_heartbeat_time is not None
    assert worker.heartbeat_stats is not None
    assert worker.heartbeat_stats["underway"] == 1
    assert worker.heartbeat_stats["pid"] == os.getpid()
    assert 0 < worker.heartbeat_stats["mem_used_gb"] < worker.heartbeat_stats["mem_total_gb"]
    assert 0 <= worker.heartbeat_stats["cpu_usage_pct"] <= 100
    assert worker.heartbeat_stats["process_rss_gb"] > 0
    assert attempt is not None
    assert attempt.last_heartbeat_time is not None


async def test_the_heart_beats_while_an_agent_blocks_the_event_loop():
    store = Beaten()

    @rollout
    async def agent(task: Any) -> float:
        assert store.beaten.wait(30)  # blocks the loop of the runner
        return 1.0

    async with running(agent, store, heartbeat_interval=0.01):
        queued = await store.enqueue_rollout(1)
        (done,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
    assert done.status == "succeeded"


async def test_heartbeats_may_carry_the_load_of_the_gpus(store: InMemoryLightningStore):
    async with running(sync_function, store, heartbeat_include_gpu=True):
        queued = await store.enqueue_rollout(0.5)
        await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
    worker = await store.get_worker_by_id("Worker-0")
    assert worker is not None
    assert worker.heartbeat_stats is not None
    assert isinstance(worker.heartbeat_stats["gpus"], list)


# -- an attempt that no longer counts -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
async def test_a_cancelled_rollout_stops_its_async_agent_at_the_next_heartbeat(mode: str):
    store, stopped, started = Beaten(), asyncio.Event(), asyncio.Event()

    @rollout
    async def agent(task: Any) -> float:
        emit_message("late")
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return 1.0

    async with running(agent, store, heartbeat_interval=0.01, heartbeat_launch_mode=mode):
        queued = await store.enqueue_rollout(1)
        await asyncio.wait_for(started.wait(), 30)
        await store.update_rollout(queued.rollout_id, status="cancelled")
        await asyncio.wait_for(stopped.wait(), 30)
    done = await store.get_rollout_by_id(queued.rollout_id)
    assert isinstance(done, AttemptedRollout)
    assert (done.status, done.attempt.status) == ("cancelled", "failed")
    assert len(await store.query_spans(queued.rollout_id)) == 0


async def test_what_a_superseded_agent_writes_is_dropped_and_the_runner_goes_on(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
):
    first_started, release = asyncio.Event(), asyncio.Event()

    @rollout
    async def agent(task: Any, rollout: AttemptedRollout) -> float:
        if rollout.attempt.sequence_id == 1:
            first_started.set()
            await release.wait()
            emit_message("of the first attempt")
            return 0.0
        return 1.0

    config = RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])
    async with running(agent, store, max_concurrency=2):
        queued = await store.enqueue_rollout(1, config=config)
        await asyncio.wait_for(first_started.wait(), 30)
        await store.update_attempt(queued.rollout_id, "latest", status="unresponsive")
        (done,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
        release.set()
        while "is dropped" not in caplog.text:  # noqa: ASYNC110  # a log can not be awaited
            await asyncio.sleep(0.01)
    assert await reward_of(store, done) == 1.0
    spans = await store.query_spans(queued.rollout_id)
    assert [span.name for span in spans] == ["agentlightning.reward"]
    assert [a.status for a in await store.query_attempts(queued.rollout_id)] == ["unresponsive", "succeeded"]
    assert "is dropped" in caplog.text


# -- the store goes away --------------------------------------------------------------------------------------------


async def test_a_closed_store_ends_the_runner_in_peace(store: InMemoryLightningStore):
    with new_runner(poll_interval=3600.0).run_context(agent=sync_function, store=store) as runner:
        work = asyncio.create_task(runner.iter())
        queued = await store.enqueue_rollout(0.5)
        await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=30)
        await store.close()
        await asyncio.wait_for(work, 30)


async def test_a_store_that_closes_under_an_agent_ends_both(store: InMemoryLightningStore):
    started, cancelled = asyncio.Event(), asyncio.Event()

    @rollout
    async def agent(task: Any) -> float:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 1.0

    await store.enqueue_rollout(1)
    with new_runner(max_concurrency=2, heartbeat_interval=0.01).run_context(agent=agent, store=store) as runner:
        work = asyncio.create_task(runner.iter())
        await asyncio.wait_for(started.wait(), 30)
        await store.close()
        await asyncio.wait_for(work, 30)
    assert cancelled.is_set()


async def test_a_store_that_gives_no_more_work_still_gets_the_results(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
):
    """A server that is about to stop answers waiting requests with `StoreClosedError`, and others as ever."""
    release = asyncio.Event()
    dequeue = store.dequeue_many_rollouts

    @rollout
    async def agent(task: Any) -> float:
        await release.wait()
        return 1.0

    async def once(*args: Any, **options: Any) -> Any:
        if taken := await dequeue(limit=1, worker_id="Worker-0"):
            return taken
        asyncio.get_running_loop().call_later(0.05, release.set)
        raise StoreClosedError("the store closes")

    monkeypatch.setattr(store, "dequeue_many_rollouts", once)
    queued = await store.enqueue_rollout(1)
    with new_runner(max_concurrency=2).run_context(agent=agent, store=store) as runner:
        await asyncio.wait_for(runner.iter(), 30)
    assert (await store.get_rollout_by_id(queued.rollout_id)).status == "succeeded"  # type: ignore[union-attr]


async def test_a_store_that_can_not_be_reached_ends_the_runner_with_its_error(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []

    async def down(*args: Any, **options: Any) -> None:
        if options:  # no heartbeat
            calls.append("update_attempt")
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr(store, "update_attempt", down)
    await store.enqueue_rollout(0.5)
    with (
        new_runner().run_context(agent=sync_function, store=store) as runner,
        pytest.raises(StoreUnavailableError, match="no answer"),
    ):
        await runner.iter()
    assert calls == ["update_attempt"]


async def test_resources_that_can_not_be_read_fail_the_attempt(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no JSON")

    monkeypatch.setattr(store, "get_resources_by_id", broken)
    done = await run_one(sync_function, store, 0.5)
    assert done.status == "failed"
    assert (await error_of(store, done))["message"] == "no JSON"


async def test_spans_that_the_store_refuses_fail_the_attempt_and_not_the_runner(store: InMemoryLightningStore):
    @rollout
    def unfit(task: Any) -> list[Any]:
        span = Span.create("bad", rollout_id="", attempt_id="")
        span.attributes["x"] = object()  # type: ignore[assignment]
        return [span]

    done = await run_one(unfit, store)
    assert done.status == "failed"
    attempt = await store.get_latest_attempt(done.rollout_id)
    assert attempt is not None
    assert attempt.metadata is not None
    assert attempt.metadata["error"]["type"] == "TypeError"


# -- resources ------------------------------------------------------------------------------------------------------


async def test_changed_resources_reach_every_rollout_that_is_newer_than_the_change():
    """Whatever the runner remembers: a rollout never runs with resources that are older than itself."""
    store = InMemoryLightningStore()
    update = await store.add_resources({"llm": LLM(endpoint="http://x", model="0")})

    @rollout
    async def agent(task: int, llm: LLM) -> float:
        assert int(llm.model) >= task
        return float(llm.model)

    async with running(agent, store):
        for version in range(1, 20):
            await store.update_resources(update.resources_id, {"llm": LLM(endpoint="http://x", model=str(version))})
            queued = [await store.enqueue_rollout(version, resources_id=update.resources_id) for _ in range(3)]
            done = await store.wait_for_rollouts(rollout_ids=[q.rollout_id for q in queued], timeout=30)
            assert [d.status for d in done] == ["succeeded"] * 3


async def test_what_an_agent_does_to_its_resources_does_not_reach_the_next_one(store: InMemoryLightningStore):
    @rollout
    def agent(task: Any, resources: Any) -> float:
        assert list(resources) == ["main_llm"]
        assert resources["main_llm"].sampling_parameters == {}
        resources["main_llm"].sampling_parameters["temperature"] = 0.0
        resources["other"] = None
        return 1.0

    queued = [await store.enqueue_rollout(i) for i in range(5)]
    async with running(agent, store):
        done = await store.wait_for_rollouts(rollout_ids=[q.rollout_id for q in queued], timeout=30)
    assert [d.status for d in done] == ["succeeded"] * 5


# -- bad use --------------------------------------------------------------------------------------------------------


async def test_a_plain_function_is_refused_with_the_mend(store: InMemoryLightningStore):
    with pytest.raises(TypeError, match=r"`agent` must be a `LitAgent`, not function; put `@agl.rollout` over"):
        new_runner().init(broken_sync)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="does nothing"):
        new_runner().init(LitAgent[Any]())


async def test_a_runner_without_agent_or_store_says_what_to_call():
    runner = new_runner()
    with pytest.raises(RuntimeError, match=r"call `init\(agent\)` first"):
        _ = runner.agent
    with pytest.raises(RuntimeError, match=r"call `init_worker\(worker_id, store\)` first"):
        await runner.iter()


@pytest.mark.parametrize("option", ["max_rollouts", "max_concurrency", "heartbeat_interval", "poll_interval"])
def test_numbers_are_positive(option: str):
    with pytest.raises(ValueError, match=f"`{option}` must be more than 0, not 0"):
        new_runner(**{option: 0})


async def test_no_thread_outlives_its_agent(store: InMemoryLightningStore):
    async with running(sync_function, store, max_concurrency=4):
        queued = [await store.enqueue_rollout(0.5) for _ in range(20)]
        await store.wait_for_rollouts(rollout_ids=[q.rollout_id for q in queued], timeout=30)
    for thread in threading.enumerate():
        if thread.name == "agl-agent":
            thread.join(30)
    assert [t.name for t in threading.enumerate() if t.name in ("agl-agent", "agl-heartbeat")] == []
