"""What is known to be wrong in Agent-Lightning 0.3 is right here. One test a defect; the spec names them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.types import NotFoundError, Span


def a_span(rollout: agl.AttemptedRollout, name: str = "work") -> Span:
    return Span.from_attributes(
        attributes={}, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id, name=name
    )


async def test_resources_that_do_not_exist_are_refused_at_enqueue():
    store = agl.InMemoryLightningStore()
    with pytest.raises(ValueError, match="rs-typo"):
        await store.enqueue_rollout({"n": 1}, resources_id="rs-typo")
    assert len(await store.query_rollouts()) == 0


async def test_the_first_span_makes_a_queued_rollout_running():
    """0.3 looks for a state of another spelling, so the rollout stays `queuing`."""
    store = agl.InMemoryLightningStore()
    queued = await store.enqueue_rollout({"n": 1})
    started = await store.start_attempt(queued.rollout_id)
    await store.add_span(a_span(started))
    found = await store.get_rollout_by_id(queued.rollout_id)
    assert found is not None
    assert found.status == "running"
    assert await store.dequeue_rollout() is None


class Fails(agl.LitAgent[Any]):
    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        raise LookupError("no tool called `serach`")


async def test_why_an_agent_failed_is_in_the_store():
    store = agl.InMemoryLightningStore()
    await store.add_resources({})
    with (
        agl.LitAgentRunner(agl.OtelTracer()).run_context(agent=Fails(), store=store) as runner,
        pytest.raises(LookupError),
    ):
        await runner.step({"n": 1})
    rollout = (await store.query_rollouts())[0]
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.metadata is not None
    assert attempt.metadata["error"]["type"] == "LookupError"
    assert "serach" in attempt.metadata["error"]["message"]
    assert "test_defects.py" in attempt.metadata["error"]["traceback"]
    spans = await store.query_spans(rollout.rollout_id, name="agentlightning.exception")
    assert spans[0].attributes["exception.type"] == "LookupError"


async def test_a_rollout_without_resources_ends():
    """0.3 logs an error and leaves the rollout in `preparing` for ever."""
    store = agl.InMemoryLightningStore()

    @agl.rollout
    def agent(task: Any, llm: agl.LLM) -> float:
        return 1.0

    queued = await store.enqueue_rollout({"n": 1})
    runner: agl.LitAgentRunner[Any] = agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=1)
    with runner.run_context(agent=agent, store=store) as ready:
        await ready.iter()
    found = await store.get_rollout_by_id(queued.rollout_id)
    attempt = await store.get_latest_attempt(queued.rollout_id)
    assert found is not None
    assert attempt is not None
    assert found.status == "failed"
    assert "resources" in str(attempt.metadata)


def test_runners_of_one_process_are_runners_of_their_own():
    """0.3 runs every thread with the same runner and tracer."""
    both = threading.Barrier(2, timeout=60)
    store = agl.InMemoryLightningStore()

    class Meets(agl.LitAgent[Any]):
        def rollout(self, task: Any, resources: Any, rollout: agl.AttemptedRollout) -> float:
            both.wait()
            agl.emit_annotation({"task": task, "runner": self.get_runner().get_worker_id()})  # type: ignore[attr-defined]
            both.wait()
            return float(task)

    @agl.algo
    async def wait_for_all(*, store: agl.LightningStore, train_dataset: Any) -> None:
        await store.add_resources({})
        queued = [await store.enqueue_rollout(task) for task in train_dataset]
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in queued])

    trainer = agl.Trainer(
        algorithm=wait_for_all, store=store, strategy=agl.SharedMemoryExecutionStrategy(2, main_thread="algorithm")
    )
    trainer.fit(Meets(), train_dataset=[1, 2])

    async def look() -> list[tuple[Any, Any, Any, Any]]:
        found: list[tuple[Any, Any, Any, Any]] = []
        for rollout in await store.query_rollouts():
            assert isinstance(rollout, agl.AttemptedRollout)
            spans = await store.query_spans(rollout.rollout_id)
            note = next(span for span in spans if "task" in span.attributes)
            reward = agl.find_final_reward(list(spans))
            found.append((rollout.attempt.worker_id, note.attributes["runner"], note.attributes["task"], reward))
        return found

    seen = asyncio.run(look())
    assert len({worker for worker, *_ in seen}) == 2
    assert all(worker == told for worker, told, *_ in seen)
    assert all(float(task) == reward for *_, task, reward in seen)


# -- over HTTP ------------------------------------------------------------------------------------------------------


class Counting(agl.InMemoryLightningStore):
    """Says how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self.calls.append(("add_many_spans", len(spans)))
        return await super().add_many_spans(spans)

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        self.calls.append(("get_many_span_sequence_ids", len(rollout_attempt_ids)))
        return await super().get_many_span_sequence_ids(rollout_attempt_ids)


@contextlib.asynccontextmanager
async def serving(store: agl.LightningStore) -> AsyncIterator[agl.LightningStoreServer]:
    server = agl.LightningStoreServer(store, host="127.0.0.1", port=0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_many_spans_are_one_request():
    store = Counting()
    async with serving(store) as server:
        client = agl.LightningStoreClient(server.endpoint)
        rollout = await client.start_rollout({"n": 1})
        pair = (rollout.rollout_id, rollout.attempt.attempt_id)
        numbers = await client.get_many_span_sequence_ids([pair] * 20)
        await client.add_many_spans([a_span(rollout, f"s{n}") for n in range(50)])
        assert len(await client.query_spans(rollout.rollout_id)) == 50
        await client.close()
    assert list(numbers) == list(range(1, 21))
    assert store.calls == [("get_many_span_sequence_ids", 20), ("add_many_spans", 50)]


@contextlib.asynccontextmanager
async def loses_first_answer(port: int, path: bytes) -> AsyncIterator[int]:
    """A proxy in front of `port` that drops the connection instead of the first answer to a request for `path`."""
    lost: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        drop = False

        async def up() -> None:
            nonlocal drop
            while data := await reader.read(65536):
                if path in data and not lost:
                    lost.append(data)
                    drop = True
                to_writer.write(data)
                await to_writer.drain()
            to_writer.close()

        async def down() -> None:
            while data := await to_reader.read(65536):
                if drop:
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(up(), down())

    proxy = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1]
        assert lost, "no request came by"
    finally:
        proxy.close()


@pytest.mark.parametrize("operation", ["enqueue", "dequeue", "start"])
async def test_a_repeated_request_is_done_once(operation: str):
    """0.3 repeats a request whose answer was lost, and the store then has two of it."""
    store = agl.InMemoryLightningStore()
    path = {
        "enqueue": b"queues/rollouts/enqueue",
        "dequeue": b"queues/rollouts/dequeue",
        "start": b"POST /v1/agl/rollouts",
    }
    for n in range(2):
        await store.enqueue_rollout({"n": n})
    async with serving(store) as server:
        port = int(server.endpoint.rsplit(":", 1)[1])
        async with loses_first_answer(port, path[operation]) as behind:
            client = agl.LightningStoreClient(f"http://127.0.0.1:{behind}")
            if operation == "enqueue":
                await client.enqueue_rollout({"n": 2})
            elif operation == "dequeue":
                taken = await client.dequeue_rollout(worker_id="w")
                assert taken is not None
                assert taken.input == {"n": 0}
            else:
                await client.start_rollout({"n": 2})
            await client.close()
    rollouts = await store.query_rollouts()
    assert len(rollouts) == (2 if operation == "dequeue" else 3)
    assert sum(rollout.status == "preparing" for rollout in rollouts) == (0 if operation == "enqueue" else 1)


async def test_an_unknown_id_is_told_at_once_and_as_itself():
    """0.3 answers 500, tries again for 8 seconds and raises an HTTP client's error."""
    async with serving(agl.InMemoryLightningStore()) as server:
        client = agl.LightningStoreClient(server.endpoint, retry_delays=(3600.0,))
        with pytest.raises(NotFoundError, match="nope"):
            await client.start_attempt("nope")
        with pytest.raises(ValueError, match="nope"):
            await client.update_rollout("nope", status="failed")
        await client.close()
