"""`complete` says 200 only if the store has the spans of all calls, whatever went wrong with one of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import openai
import pytest

from agentlightning import semconv
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.clock import Clock
from agentlightning.types import AttemptedRollout

from .conftest import QUESTION, LocalBackend, client_for, until

ASKED: dict[str, Any] = {"model": "tiny", "messages": QUESTION}


async def complete(proxy: LLMProxy, rollout: AttemptedRollout) -> tuple[int, dict[str, Any]]:
    """What the runner is told."""
    ids = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    async with aiohttp.ClientSession() as http, http.post(f"http://127.0.0.1:{proxy.port}{ids}/complete") as answer:
        return answer.status, await answer.json()


async def ask(client: openai.AsyncOpenAI, stream: bool) -> None:
    """One call, to its end."""
    answer: Any = await client.chat.completions.create(**ASKED, stream=stream)
    if stream:
        async for _ in answer:
            pass


async def statuses(store: InMemoryLightningStore, rollout: AttemptedRollout) -> list[str]:
    return [span.status.status_code for span in await store.query_spans(rollout.rollout_id)]


async def test_an_attempt_whose_call_runs_is_not_forgotten(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    proxy._gateway._attempts._limit = 1
    backend.hold = asyncio.Event()
    others = [await store.start_rollout("another") for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_for(proxy, one)) for one in (rollout, *others)]
        calls = [asyncio.create_task(client.chat.completions.create(**ASKED)) for client in clients]
        await until(lambda: backend.waiting == 4)
        asking = asyncio.create_task(complete(proxy, rollout))
        await asyncio.sleep(0.1)
        assert not asking.done()
        proxy._server.call_in_loop(backend.hold.set)
        assert await asking == (200, {"calls": 1})
        assert await statuses(store, rollout) == ["OK"]
        await asyncio.gather(*calls)
    async with client_for(proxy, await store.start_rollout("the last")) as client:
        await ask(client, False)
    assert len(proxy._gateway._attempts._known) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_a_stop_cuts_off_is_on_record(
    store: InMemoryLightningStore, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("agentlightning.utils.server_thread.DRAIN_SECONDS", 0.1)
    proxy = LLMProxy(store=store)
    proxy.set_backend("tiny", backend)
    await proxy.start()
    rollout = await store.start_rollout("a task")
    backend.hold = asyncio.Event()
    async with client_for(proxy, rollout) as client:
        asking = asyncio.create_task(ask(client, stream))
        await until(lambda: backend.waiting == 1)
        await proxy.stop()
        with pytest.raises(openai.APIError, match="the gateway was stopped"):
            await asking
    (span,) = await store.query_spans(rollout.rollout_id)
    assert span.attributes[semconv.ERROR_TYPE] == "cancelled"
    await proxy.start()
    try:
        assert await complete(proxy, rollout) == (200, {"calls": 1})
    finally:
        await proxy.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_could_not_be_recorded_is_remembered(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    rollout: AttemptedRollout,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    """Its agent has seen the text of a stream, and may have gone on from it."""

    async def refuse(_: Any) -> None:
        raise ValueError("no such span")

    async with client_for(proxy, rollout) as client:
        with monkeypatch.context() as patched:
            patched.setattr(store, "add_many_spans", refuse)
            with pytest.raises(openai.APIError, match="could not record this call"):
                await ask(client, stream)
        await client.chat.completions.create(**ASKED)
    status, body = await complete(proxy, rollout)
    assert (status, body["error"]["code"]) == (422, "incomplete_attempt")


@pytest.mark.parametrize("usage", [None, [], [1], "many", 3, {"prompt_tokens": "three"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_usage_that_is_none_costs_no_call(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    rollout: AttemptedRollout,
    backend: LocalBackend,
    usage: Any,
    stream: bool,
) -> None:
    make = backend._reply

    def garbled(body: dict[str, Any]) -> Any:
        reply = make(body)
        reply.response["usage"] = usage
        return reply

    backend._reply = garbled  # type: ignore[method-assign]
    async with client_for(proxy, rollout) as client:
        await ask(client, stream)
    assert await statuses(store, rollout) == ["OK"]
    assert proxy.usage(rollout.rollout_id).calls == 1


@pytest.mark.parametrize("ahead_s", [-3600.0, 0.0, 3600.0])
async def test_attempts_are_told_apart_from_those_of_an_earlier_gateway_whatever_the_clocks_say(
    backend: LocalBackend, ahead_s: float
) -> None:
    """The store may be on another machine."""

    class Elsewhere(InMemoryLightningStore):
        def _set_clock(self, clock: Clock) -> None:
            super()._set_clock(Clock(clock.now() + ahead_s))

    store = Elsewhere()
    proxy = LLMProxy(store=store)
    proxy.set_backend("tiny", backend)
    before = await store.start_rollout("begun before the gateway")
    await asyncio.sleep(0.05)
    await proxy.start()
    try:
        await asyncio.sleep(0.05)
        after = await store.start_rollout("begun with it")
        status, body = await complete(proxy, before)
        assert (status, body["error"]["code"]) == (422, "earlier_gateway")
        assert await complete(proxy, after) == (200, {"calls": 0})
    finally:
        await proxy.stop()
        await store.close()
