"""Streamed calls: chunks go out as they come, the end only when the call is on record."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import orjson
import pytest

from agentlightning import semconv
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, RequestError

from .conftest import QUESTION, LocalBackend, client_for, until

STREAMED: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "stream": True}


async def test_a_streamed_call_is_recorded_whole(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**STREAMED)]
        spans = await store.query_spans(rollout.rollout_id)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "answer 0"
    assert chunks[-1].choices[0].finish_reason == "stop"
    (span,) = spans
    assert span.token_call is not None
    assert span.token_call.response_ids.tolist() == [10, 2]
    assert orjson.loads(str(span.attributes[semconv.GEN_AI_OUTPUT_MESSAGES]))[0]["content"] == "answer 0"
    assert span.attributes[semconv.LLM_CALL_FIRST_CHUNK_MS] <= span.attributes[semconv.LLM_CALL_LATENCY_MS]  # type: ignore[operator]


async def test_chunks_pass_while_the_backend_still_works(proxy: LLMProxy, backend: LocalBackend) -> None:
    backend.hold = asyncio.Event()
    async with client_for(proxy) as client:
        stream = await client.chat.completions.create(**STREAMED)
        first = await anext(stream)
        assert first.choices[0].delta.content == "ans"
        assert backend.waiting == 1
        proxy._server.call_in_loop(backend.hold.set)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "wer 0"


async def test_the_end_waits_for_the_record(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes its time: the text is there, the finish reason is not."""
    gate, add = asyncio.Event(), store.add_many_spans
    loops: list[asyncio.AbstractEventLoop] = []

    async def slow(spans: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        await gate.wait()
        return await add(spans)

    monkeypatch.setattr(store, "add_many_spans", slow)
    got: list[Any] = []

    async def read() -> None:
        async with client_for(proxy, rollout) as client:
            async for chunk in await client.chat.completions.create(**STREAMED):
                got.append(chunk)  # noqa: PERF401  # looked at while it grows

    reading = asyncio.create_task(read())
    await until(lambda: bool(loops) and len(got) == 3)
    assert [chunk.choices[0].finish_reason for chunk in got] == [None, None, None]
    loops[0].call_soon_threadsafe(gate.set)
    await reading
    assert got[-1].choices[0].finish_reason == "stop"


async def test_a_failure_midway_is_told_and_marked(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    backend.error = RequestError("the backend died", status=502)
    async with client_for(proxy, rollout) as client:
        stream = await client.chat.completions.create(**STREAMED)
        with pytest.raises(openai.APIError, match="the backend died"):
            async for _ in stream:
                pass
    (span,) = await store.query_spans(rollout.rollout_id)
    assert (span.status.status_code, span.token_call) == ("ERROR", None)
    assert "the backend died" in str(span.status.description)


async def test_a_client_that_leaves_midway_ends_the_call_at_the_backend(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    backend.hold = asyncio.Event()
    async with client_for(proxy, rollout) as client:
        stream = await client.chat.completions.create(**STREAMED)
        await anext(stream)
        await stream.close()
    await until(lambda: backend.cancelled == 1)
    found = await store.query_spans(rollout.rollout_id)
    while not found:
        await asyncio.sleep(0.01)
        found = await store.query_spans(rollout.rollout_id)
    assert found[0].attributes[semconv.ERROR_TYPE] == "cancelled"
    assert found[0].token_call is None


async def test_a_complete_attempt_takes_no_more_calls(
    proxy: LLMProxy, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    """`complete` waits for the call that runs and refuses the next one."""
    backend.hold = asyncio.Event()
    base = f"{proxy.base_url.removesuffix('/v1')}/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    async with client_for(proxy, rollout) as client, aiohttp.ClientSession() as http:
        running = asyncio.create_task(client.chat.completions.create(model="tiny", messages=QUESTION))
        await until(lambda: backend.waiting == 1)
        asking = asyncio.create_task(http.post(f"{base}/complete"))
        await asyncio.sleep(0.05)
        with pytest.raises(openai.ConflictError, match="its agent has ended"):
            await client.chat.completions.create(model="tiny", messages=QUESTION)
        assert not asking.done()
        proxy._server.call_in_loop(backend.hold.set)
        answer = await asking
        assert (answer.status, await answer.json()) == (200, {"calls": 1})
        await running
