"""How often spans travel: with a store over HTTP, in long attempts, and beside rewards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from agentlightning.emitter import emit_message, emit_reward, get_message_value
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.store.base import LightningStore
from agentlightning.tracer import AttemptTrace, OtelTracer, Tracer, trace
from agentlightning.types import Span


class CountingStore(InMemoryLightningStore):
    """Knows how many spans came with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.down = False

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        if self.down:
            raise ConnectionError("the store is down")
        self.batches.append(len(spans))
        return await super().add_many_spans(spans)


@pytest.fixture
async def counting() -> AsyncIterator[CountingStore]:
    home = CountingStore()
    yield home
    await home.close()


@pytest.fixture
async def remote(counting: CountingStore) -> AsyncIterator[LightningStoreClient]:
    server = LightningStoreServer(counting, host="127.0.0.1", port=None)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    yield client
    await client.close()
    await server.stop()


@pytest.fixture(params=[Tracer, OtelTracer])
def tracer(request: pytest.FixtureRequest) -> Tracer:
    return request.param()


async def messages(store: LightningStore, rollout_id: str) -> list[str | None]:
    return [get_message_value(span) for span in await store.query_spans(rollout_id, limit=100_000)]


async def begun(store: LightningStore) -> dict[str, str]:
    rollout = await store.start_rollout("a task")
    return {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}


async def test_spans_reach_a_remote_store_in_one_request(
    tracer: Tracer, remote: LightningStoreClient, counting: CountingStore
) -> None:
    ids = await begun(remote)

    def agent() -> None:
        for number in range(trace.MOST_UNSENT - 1):
            emit_message(str(number))

    async with tracer.trace_context(store=remote, **ids):
        await asyncio.to_thread(agent)
        assert counting.batches == []
    assert counting.batches == [trace.MOST_UNSENT - 1]


async def test_a_long_attempt_sends_on_the_way_and_keeps_its_order(
    tracer: Tracer, remote: LightningStoreClient, counting: CountingStore
) -> None:
    ids, count = await begun(remote), 20 * trace.MOST_UNSENT

    def agent(running: AttemptTrace) -> None:
        for number in range(count):
            emit_message(str(number))
            if number % 1000 == 0:
                emit_reward(1.0)
        assert len(running.spans) <= trace.KEPT

    async with tracer.trace_context(store=remote, **ids) as running:
        await asyncio.to_thread(agent, running)
    got = await messages(remote, ids["rollout_id"])
    assert [text for text in got if text is not None] == [str(number) for number in range(count)]
    assert [got[at - 1] for at, text in enumerate(got) if text is None] == [str(n) for n in range(0, count, 1000)]
    assert 10 <= len(counting.batches) <= 50
    assert get_message_value(tracer.get_last_trace()[-1]) == str(count - 1)


@pytest.mark.parametrize(("limit", "value"), [("MOST_CHARACTERS", 10), ("LONGEST_UNSENT_S", 0.0), ("MOST_UNSENT", 2)])
async def test_much_text_and_much_time_count_too(
    tracer: Tracer, counting: CountingStore, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    monkeypatch.setattr(trace, limit, value)
    ids = await begun(counting)
    async with tracer.trace_context(store=counting, **ids):
        while len(counting.batches) < 3:
            emit_message("a message")
            await asyncio.sleep(0)


async def test_what_could_not_be_sent_on_the_way_is_sent_in_the_end(
    tracer: Tracer, counting: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MOST_UNSENT", 3)
    ids = await begun(counting)
    async with tracer.trace_context(store=counting, **ids):
        counting.down = True
        for number in range(10):
            emit_message(str(number))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert counting.batches == []
        counting.down = False
    assert await messages(counting, ids["rollout_id"]) == [str(number) for number in range(10)]
