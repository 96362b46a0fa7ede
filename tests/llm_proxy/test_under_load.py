"""Pauses, drains and other model lists while agents call through the whole gateway, streamed and not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from agentlightning.adapter import episode_from_spans
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore

from .agents import WRITERS, ask
from .backends.endpoint import Endpoint, Json, Write, serving
from .conftest import until
from .upstreams import Upstream

AGENTS, CALLS = 8, 12


class Serving:
    """An endpoint that takes a moment, and counts who is there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.url
        self.running = 0
        self.asked = 0
        upstream = Upstream()
        upstream.go_on.set()

        def answer(body: Json) -> Write:
            good = upstream.vllm(body)

            async def write(request: web.Request) -> web.StreamResponse:
                self.running, self.asked = self.running + 1, self.asked + 1
                try:
                    await asyncio.sleep(random.random() / 50)
                    return good if isinstance(good, web.Response) else await good(request)
                finally:
                    self.running -= 1

            return write

        endpoint.answer = answer

    def entry(self, **params: Any) -> dict[str, Any]:
        return {"model_name": "main", "litellm_params": {"model": "hosted_vllm/m", "api_base": self.url, **params}}


async def agents(proxy: LLMProxy, store: InMemoryLightningStore) -> Counter[str]:
    """All agents call, each in turn in every interface; how many calls each rollout has on record."""

    async def one(number: int) -> tuple[str, int]:
        rollout = await store.start_rollout(number, mode="train")
        for call in range(CALLS):
            name = WRITERS[(number + call) % len(WRITERS)]
            got = await ask(name, proxy, rollout, stream=call % 2 == 0)
            assert got.texts[0] == "w343 w360 w983 "
        spans = await store.query_spans(rollout.rollout_id)
        episode = episode_from_spans(spans, rollout.rollout_id)
        assert (episode.missing_token_ids, episode.backend_failures) == (0, 0)
        return rollout.rollout_id, len(episode.turns)

    return Counter(dict(await asyncio.gather(*map(one, range(AGENTS)))))


@pytest.mark.parametrize("model", [None, "main"])
async def test_nobody_is_at_a_backend_between_drain_and_resume_and_no_call_fails(
    store: InMemoryLightningStore, model: str | None
) -> None:
    async with serving() as one, serving() as two:
        servers = [Serving(one), Serving(two)]
        proxy = LLMProxy(store=store, num_retries=0)
        proxy.update_model_list([server.entry() for server in servers])
        await proxy.start()
        working = asyncio.create_task(agents(proxy, store))
        pauses = 0
        while not working.done():
            await asyncio.sleep(0.02)
            proxy.pause(model)
            await proxy.drain(30, model)
            asked = sum(server.asked for server in servers)
            await until(lambda: not any(server.running for server in servers))  # as soon as the handlers have ended
            await asyncio.sleep(0.02)
            assert sum(server.asked for server in servers) == asked
            proxy.resume(model)
            pauses += 1
        assert set((await working).values()) == {CALLS}
        await proxy.stop()
    assert pauses > 1


async def test_the_model_list_changes_all_the_time_and_no_call_fails(store: InMemoryLightningStore) -> None:
    async with serving() as one, serving() as two, serving() as three:
        servers = [Serving(each) for each in (one, two, three)]
        proxy = LLMProxy(store=store, num_retries=0)
        proxy.update_model_list([servers[0].entry()])
        await proxy.start()
        working = asyncio.create_task(agents(proxy, store))
        changes = 0
        while not working.done():
            await asyncio.sleep(0.01)
            listed = random.sample(servers, random.randint(1, 3))
            proxy.update_model_list([server.entry(max_parallel_requests=random.randint(1, 9)) for server in listed])
            changes += 1
        assert set((await working).values()) == {CALLS}
        await proxy.stop()
    assert changes > 2
    assert all(server.asked for server in servers)
