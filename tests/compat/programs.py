"""Programs as a user of Agent-Lightning 0.3 writes them. Each returns what the user would look at.

`test_programs.py` runs them on this package and says what must come out. They import nothing else, so that they can be
run on 0.3 itself as well (`python programs.py NAME ...` prints the results as JSON).
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import agentlightning as agl
from agentlightning.emitter import get_rewards_from_span
from agentlightning.litagent.decorator import llm_rollout, prompt_rollout
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import LLM, PromptTemplate, ProxyLLM, RolloutConfig, Span, TraceStatus
from agentlightning.utils.otel import (
    extract_links_from_attributes,
    extract_tags_from_attributes,
    filter_and_unflatten_attributes,
    filter_attributes,
    flatten_attributes,
    make_link_attributes,
    make_tag_attributes,
    query_linked_spans,
    sanitize_attributes,
    unflatten_attributes,
)


def runner() -> agl.LitAgentRunner[Any]:
    return agl.LitAgentRunner(agl.OtelTracer())


async def reward_of(store: agl.LightningStore, rollout: agl.Rollout) -> float | None:
    return agl.find_final_reward(list(await store.query_spans(rollout.rollout_id, "latest")))


# -- agents ---------------------------------------------------------------------------------------------------------


@agl.rollout
def by_signature(task: dict[str, Any], llm: LLM) -> float:
    return float(llm.endpoint.endswith("/v1") and "/rollout/ro-" in llm.endpoint and "/attempt/at-" in llm.endpoint)


@llm_rollout(strip_proxy=False)
def keeps_proxy(task: dict[str, Any], llm: LLM, rollout: agl.Rollout) -> float:
    assert isinstance(rollout, agl.AttemptedRollout)
    url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
    return float(isinstance(llm, ProxyLLM) and rollout.attempt.attempt_id in url)


@prompt_rollout
async def with_prompt(task: dict[str, Any], prompt_template: PromptTemplate) -> float:
    return float(prompt_template.format(name=task["name"]) == "Hello, Ada!")


class Modes(agl.LitAgent[dict[str, Any]]):
    """Gives another reward in training than in validation."""

    async def training_rollout_async(self, task: Any, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return 0.25

    async def validation_rollout_async(self, task: Any, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return 0.75


class Plain(agl.LitAgent[dict[str, Any]]):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def rollout(self, task: Any, resources: agl.NamedResources, rollout: agl.Rollout) -> None:
        self.seen += sorted(resources)
        agl.emit_reward(task["reward"])


async def agents() -> Any:
    """Agents as functions and classes, each executed by `runner.step`."""
    store = InMemoryLightningStore()
    resources: agl.NamedResources = {
        "main_llm": ProxyLLM(endpoint="http://127.0.0.1:1/v1", model="m", sampling_parameters={"temperature": 0.5}),
        "prompt": PromptTemplate(template="Hello, {name}!", engine="f-string"),
    }
    await store.add_resources(resources)
    found: list[Any] = []
    plain = Plain()
    for agent, mode in (
        (by_signature, "train"),
        (keeps_proxy, "train"),
        (with_prompt, "val"),
        (Modes(), "train"),
        (Modes(), "val"),
        (Modes(), None),
        (plain, "test"),
    ):
        with runner().run_context(agent=agent, store=store) as ready:
            done = await ready.step({"name": "Ada", "reward": 0.5}, mode=mode)
        found.append([done.status, done.mode, await reward_of(store, done)])
    return {"found": found, "seen": plain.seen, "called": await with_prompt({"name": "Ada"}, resources["prompt"])}


async def results() -> Any:
    """What an agent may return, and what it may not."""
    store = InMemoryLightningStore()
    await store.add_resources({})

    class Returns(agl.LitAgent[str]):
        def rollout(self, task: str, resources: Any, rollout: agl.Rollout) -> Any:
            if task == "core":
                return [agl.emit_annotation({"note": "own"}, propagate=False), agl.emit_reward(0.5, propagate=False)]
            if task == "spans":
                return [
                    Span.from_attributes(
                        attributes={"kind": "made by hand"},
                        rollout_id=rollout.rollout_id,
                        attempt_id=rollout.attempt.attempt_id,
                        sequence_id=1,
                    )
                ]
            if task == "raise":
                raise LookupError("no such tool")
            return {"int": 1, "bool": True, "none": None, "text": "1.0"}[task]

    found: dict[str, Any] = {}
    with runner().run_context(agent=Returns(), store=store) as ready:
        for task in ("int", "bool", "none", "core", "spans", "text", "raise"):
            try:
                done = await ready.step(task)
            except (LookupError, TypeError) as error:
                found[task] = type(error).__name__
                done = (await store.query_rollouts(sort_by="start_time", sort_order="desc", limit=1))[0]
            spans = await store.query_spans(done.rollout_id)
            own = [s.attributes.get("note") or s.attributes.get("kind") for s in spans]
            found[task] = [done.status, await reward_of(store, done), [o for o in own if o], found.get(task)]
    return found


# -- hooks and emitters ---------------------------------------------------------------------------------------------


class Diary(agl.Hook):
    def __init__(self) -> None:
        self.lines: list[str] = []

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Any) -> None:
        self.lines.append(f"rollout starts {isinstance(agent, agl.LitAgent)} {rollout.attempt.sequence_id}")

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
        self.lines.append(f"trace starts {tracer is agl.get_active_tracer()}")

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
        self.lines.append(f"trace ends {len(tracer.get_last_trace())}")

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
        self.lines.append(f"rollout ends {agl.find_final_reward(spans)}")


class Broken(agl.Hook):
    async def on_trace_start(self, **_: Any) -> None:
        raise RuntimeError("hooks never harm a rollout")


async def hooks() -> Any:
    store = InMemoryLightningStore()
    await store.add_resources({})
    diary = Diary()
    with runner().run_context(agent=Plain(), store=store, hooks=[Broken(), diary]) as ready:
        done = await ready.step({"reward": 1.0})
    return {"status": done.status, "lines": diary.lines}


class Talks(agl.LitAgent[Any]):
    """Uses every emitter, and OpenTelemetry itself."""

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> None:
        from opentelemetry import trace

        agl.emit_message("thinking", attributes={"step": {"number": 1}})
        agl.emit_object({"plan": ["a", {"b": None}]})
        agl.emit_object("literal")
        agl.emit_object(b"\x00\xff")
        agl.emit_annotation({"nested": {"key": [1, 2]}})
        try:
            {}["missing"]
        except KeyError as error:
            agl.emit_exception(error)

        @agl.operation
        def add(a: int, b: int = 2, *more: int, **options: Any) -> dict[str, int]:
            return {"sum": a + b}

        @agl.operation(name="fetch", team="search")
        async def get(url: str) -> list[Any]:
            agl.emit_message("inside")
            return [url, {"status": 200}]

        add(1, 2, 3, verbose=True)
        await get("http://x")
        with agl.operation(name="block", **make_tag_attributes(["slow", "io"])) as op:
            op.set_input("positional", question="why?")
            op.set_output({"answer": 42})
        assert op.span().attributes["agentlightning.operation.output.answer"] == 42
        try:
            with agl.operation(name="fails"):
                raise ValueError("tool broke")
        except ValueError:
            pass
        with trace.get_tracer("user").start_as_current_span("own", attributes={"who": "user"}):
            pass
        agl.emit_reward({"style": 0.5, "right": 1.0}, primary_key="right", attributes={"judge": "rules"})
        agl.emit_reward(0.25)


async def emitters() -> Any:
    store = InMemoryLightningStore()
    await store.add_resources({})
    with runner().run_context(agent=Talks(), store=store) as ready:
        done = await ready.step(None)
    spans = list(await store.query_spans(done.rollout_id))
    by_id = {span.span_id: span for span in spans}
    rewards = agl.find_reward_spans(spans)
    operations = [s for s in spans if s.name == "agentlightning.operation"]
    inside = next(s for s in spans if agl.get_message_value(s) == "inside")
    return {
        "numbered": [s.sequence_id for s in spans] == sorted({s.sequence_id for s in spans}),
        "ids": {(s.rollout_id == done.rollout_id, len(s.trace_id), len(s.span_id)) for s in spans} == {(True, 32, 16)},
        "messages": [m for s in spans if (m := agl.get_message_value(s)) is not None],
        "step": next(s.attributes["step.number"] for s in spans if agl.get_message_value(s) == "thinking"),
        "objects": [repr(agl.get_object_value(s)) for s in spans if s.name == "agentlightning.object"],
        "annotation": [s.attributes["nested.key"] for s in spans if "nested.key" in s.attributes],
        "exceptions": [s.attributes["exception.type"] for s in spans if s.name == "agentlightning.exception"],
        "rewards": [[(d.name, d.value) for d in get_rewards_from_span(s)] for s in rewards],
        "primary": [agl.get_reward_value(s) for s in rewards],
        "judge": rewards[0].attributes["judge"],
        "final": agl.find_final_reward(spans),
        "operations": [
            [
                s.attributes["agentlightning.operation.name"],
                filter_and_unflatten_attributes(s.attributes, "agentlightning.operation.input"),
                filter_and_unflatten_attributes(s.attributes, "agentlightning.operation.output"),
                s.status.status_code == "ERROR",
            ]
            for s in operations
        ],
        "extra": [s.attributes.get("team") for s in operations],
        "tags": extract_tags_from_attributes(operations[2].attributes),
        "inside": by_id[inside.parent_id].attributes["agentlightning.operation.name"] if inside.parent_id else None,
        "own": [s.attributes["who"] for s in spans if s.name == "own"],
    }


async def helpers() -> Any:
    """`utils.otel` by itself."""
    nested = {"a": {"b": [{"c": 1}, {"c": 2}], "d": "x"}, "list": [1, 2], "mixed": [1, "two"]}
    flat = flatten_attributes(nested)
    links = make_link_attributes({"gen_ai.response.id": "resp-1", "kind": "call"})
    spans = [
        Span.from_attributes(attributes={"gen_ai.response.id": name, "kind": "call"}, sequence_id=1)
        for name in ("resp-1", "resp-2")
    ]
    linked = query_linked_spans(spans, extract_links_from_attributes(links))
    return {
        "flat": flat,
        "expanded": flatten_attributes({"l": [1, 2]}, expand_leaf_lists=True),
        "back": unflatten_attributes(flat) == nested,
        "below": filter_attributes(flat, "a.b"),
        "links": links,
        "linked": [s.attributes["gen_ai.response.id"] for s in linked],
        "clean": sanitize_attributes({"n": None, "d": {"x": 1}, "m": [1, 2.5], "s": "s"}),
    }


async def tracing() -> Any:
    """The tracer without a runner."""
    tracer = agl.OtelTracer()
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input={"origin": "by hand"})
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    with tracer.lifespan(store):
        async with tracer.trace_context("manual", store=store, **ids) as otel:
            with otel.start_as_current_span("outer"), otel.start_as_current_span("inner"):
                pass
            agl.emit_reward(1.0)
        async with tracer.trace_context("not stored"):
            agl.emit_reward(0.5)
            with tracer.operation_context("op", {"a": 1}) as recording:
                recording.record_attributes({"b": 2})
            local = [agl.find_final_reward(tracer.get_last_trace()), recording.get_recorded_span().attributes]
    spans = list(await store.query_spans(rollout.rollout_id))
    names = {s.span_id: s.name for s in spans}
    parents = {s.name: names.get(s.parent_id or "") for s in spans if s.name in ("outer", "inner")}
    agl.set_active_tracer(agl.DummyTracer())
    dummy = agl.get_reward_value(agl.emit_reward(0.125))
    agl.clear_active_tracer()
    return {
        "n": len(spans),
        "parents": parents,
        "local": local,
        "dummy": dummy,
        "none": agl.get_active_tracer() is None,
    }


# -- the store by hand ----------------------------------------------------------------------------------------------


def span(rollout: Any, name: str, sequence_id: int, **attributes: Any) -> Span:
    return Span.from_attributes(
        attributes=attributes,
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        sequence_id=sequence_id,
        name=name,
        start_time=1.0,
        end_time=2.0,
        status=TraceStatus(status_code="OK"),
    )


async def exercise(store: agl.LightningStore) -> Any:
    """The life of a rollout in any home."""
    first = await store.add_resources({"llm": LLM(endpoint="http://x/v1", model="one")})
    again = await store.update_resources(first.resources_id, {"llm": LLM(endpoint="http://x/v1", model="two")})
    named = await store.update_resources("my-prompt", {"p": PromptTemplate(template="{q}", engine="f-string")})
    latest = await store.get_latest_resources()
    by_id = await store.get_resources_by_id(first.resources_id)
    assert latest is not None
    assert by_id is not None

    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    queued = await store.enqueue_rollout({"n": 0}, "train", first.resources_id, config, {"tag": "retry"})
    others = await store.enqueue_many_rollouts(
        [agl.EnqueueRolloutRequest(input={"n": n}, mode="val") for n in range(1, 4)]
    )
    taken = await store.dequeue_rollout(worker_id="w-1")
    assert taken is not None
    seen = [taken.rollout_id == queued.rollout_id, taken.status, taken.attempt.sequence_id, taken.attempt.status]
    number = await store.get_next_span_sequence_id(taken.rollout_id, taken.attempt.attempt_id)
    await store.add_span(span(taken, "first", number, kind="a"))
    running = await store.get_rollout_by_id(taken.rollout_id)
    assert running is not None
    worker = await store.get_worker_by_id("w-1")
    assert worker is not None
    busy = [worker.status, worker.current_rollout_id == taken.rollout_id]
    await store.update_attempt(taken.rollout_id, taken.attempt.attempt_id, status="failed")
    requeued = await store.get_rollout_by_id(taken.rollout_id)
    assert requeued is not None

    rest = [await store.dequeue_rollout(worker_id="w-2") for _ in range(4)]
    order = [r.input["n"] for r in rest if r is not None]
    second = next(r for r in rest if r is not None and r.rollout_id == taken.rollout_id)
    await store.add_many_spans([span(second, "call", 0 + 2, kind="b"), span(second, "reward", 3, kind="b")])
    await store.update_attempt(second.rollout_id, "latest", status="succeeded", metadata={"by": "hand"})
    waited = await store.wait_for_rollouts(rollout_ids=[taken.rollout_id, others[0].rollout_id], timeout=0.05)
    attempts = await store.query_attempts(taken.rollout_id)
    end = await store.get_rollout_by_id(taken.rollout_id)
    assert end is not None
    cancelled = await store.update_rollout(others[2].rollout_id, status="cancelled")

    page = await store.query_rollouts(sort_by="start_time", limit=2, offset=1)
    spans = await store.query_spans(taken.rollout_id)
    return {
        "resources": [first.version, again.version, again.resources_id == first.resources_id, named.version],
        "latest": [latest.resources_id, type(latest.resources["p"]).__name__, by_id.resources["llm"].model],
        "seen": seen,
        "running": [running.status, isinstance(running, agl.AttemptedRollout)],
        "busy": busy,
        "requeued": [requeued.status, requeued.end_time],
        "empty": await store.dequeue_rollout(worker_id="w-3"),
        "order": order,
        "second": [second.attempt.sequence_id, second.attempt.worker_id],
        "waited": [r.rollout_id == taken.rollout_id for r in waited],
        "attempts": [(a.sequence_id, a.status, a.end_time is not None) for a in attempts],
        "latest attempt": (await store.get_latest_attempt(taken.rollout_id)).metadata,  # type: ignore[union-attr]
        "end": [end.status, end.end_time is not None, end.metadata, end.config.max_attempts],
        "cancelled": [cancelled.status, cancelled.end_time is not None],
        "page": [len(page), page.total, page.limit, page.offset, [r.input["n"] for r in page]],
        "by status": sorted(r.input["n"] for r in await store.query_rollouts(status_in=["preparing", "cancelled"])),
        "by id": len(await store.query_rollouts(rollout_id_in=[queued.rollout_id, "ro-unknown"])),
        "by old names": len(await store.query_rollouts(status=["succeeded"], rollout_ids=[queued.rollout_id])),
        "contains": len(await store.query_rollouts(rollout_id_contains=queued.rollout_id[3:])),
        "spans": [(s.sequence_id, s.name, s.attributes["kind"]) for s in spans],
        "latest spans": len(await store.query_spans(taken.rollout_id, "latest")),
        "named spans": len(await store.query_spans(taken.rollout_id, name_contains="ca", sort_order="desc")),
        "workers": sorted((w.worker_id, w.status) for w in await store.query_workers() if w.worker_id != "w-2"),
        "heartbeat": (await store.update_worker("w-9", {"cpu": 0.5})).heartbeat_stats,
        "nothing": [await store.get_rollout_by_id("ro-none"), await store.get_worker_by_id("w-none")],
        "statistics": {
            key: value
            for key, value in dict(await store.statistics()).items()
            if key.startswith("total_") and "byte" not in key
        },
        "resources ids": sorted(len(u.resources) for u in await store.query_resources()),
    }


async def by_hand() -> Any:
    return await exercise(InMemoryLightningStore())


async def served() -> Any:
    """The same over HTTP."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = LightningStoreServer(InMemoryLightningStore(), host="127.0.0.1", port=port)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        return await exercise(client)
    finally:
        await client.close()
        await server.stop()


# -- algorithms and the trainer -------------------------------------------------------------------------------------


def algorithm() -> Any:
    """A custom algorithm that queues, waits and reads, run by `Trainer.fit`."""
    found: dict[str, Any] = {}

    @agl.algo
    async def search(*, store: agl.LightningStore, train_dataset: Any, initial_resources: Any) -> None:
        prompt = initial_resources["prompt"]
        scores: dict[str, float] = {}
        for template in (prompt.template, "Hello, {name}!"):
            update = await store.add_resources({"prompt": PromptTemplate(template=template, engine="f-string")})
            queued = [
                await store.enqueue_rollout(input=train_dataset[i], mode="train", resources_id=update.resources_id)
                for i in range(len(train_dataset))
            ]
            done: list[Any] = []
            while len(done) < len(queued):
                done = await store.wait_for_rollouts(rollout_ids=[r.rollout_id for r in queued], timeout=0.1)
            rewards = [await reward_of(store, rollout) for rollout in done]
            scores[template] = sum(r or 0.0 for r in rewards) / len(rewards)
        found["scores"] = scores
        found["workers"] = sorted({w.worker_id[:6] for w in await store.query_workers()})

    trainer = agl.Trainer(
        algorithm=search,
        initial_resources={"prompt": PromptTemplate(template="Hi {name}", engine="f-string")},
        tracer=agl.OtelTracer(),
        strategy=agl.SharedMemoryExecutionStrategy(n_runners=2, main_thread="algorithm"),
        store=InMemoryLightningStore(),
    )
    trainer.fit(with_prompt, train_dataset=[{"name": "Ada"}, {"name": "Ada"}])
    return found


def dev() -> Any:
    """`Trainer.dev` with hooks and the baseline that comes with it."""
    diary = Diary()
    trainer = agl.Trainer(
        n_runners=1,
        hooks=diary,
        tracer=agl.OtelTracer(),
        initial_resources={"p": PromptTemplate(template="x", engine="f-string")},
        strategy=agl.SharedMemoryExecutionStrategy(main_thread="algorithm"),
        algorithm=agl.Baseline(polling_interval=0.1, span_verbosity="none"),
    )
    trainer.dev(Plain(), train_dataset=[{"reward": 1.0}, {"reward": 0.0}])
    return {"ends": sorted(line for line in diary.lines if line.startswith("rollout ends"))}


PROGRAMS = (agents, results, hooks, emitters, helpers, tracing, by_hand, served, algorithm, dev)


def run(name: str) -> Any:
    """What the program of this name returns."""
    program = {p.__name__: p for p in PROGRAMS}[name]
    found = program()
    return asyncio.run(found) if asyncio.iscoroutine(found) else found


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [p.__name__ for p in PROGRAMS]:
        print(chosen, json.dumps(run(chosen), sort_keys=True), flush=True)
