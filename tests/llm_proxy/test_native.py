"""The gateway in front of the real native engine: within the process, and over HTTP as any endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import openai
import pytest

from agentlightning.adapter import episode_from_spans
from agentlightning.inference.server import create_app
from agentlightning.inference.service import ChatService
from agentlightning.llm_proxy import HttpBackend, LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import TokenCall
from agentlightning.utils.server_thread import ThreadedServer

from .conftest import client_for


@pytest.fixture
async def endpoint(service: ChatService) -> AsyncIterator[str]:
    server = ThreadedServer("127.0.0.1", None, lambda: create_app(service), name="engine-server")
    await server.start()
    yield f"http://127.0.0.1:{server.port}/v1"
    await server.stop()


async def converse(proxy: LLMProxy, store: InMemoryLightningStore) -> list[TokenCall]:
    rollout = await store.start_rollout("a task", mode="train", metadata={"seed": 3})
    messages: list[Any] = [{"role": "user", "content": "what is 3 plus 4 ?"}]
    async with client_for(proxy, rollout) as client:
        for _ in range(3):
            answer = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
            messages += [
                {"role": "assistant", "content": answer.choices[0].message.content},
                {"role": "user", "content": "what ?"},
            ]
    spans = await store.query_spans(rollout.rollout_id)
    episode = episode_from_spans(spans, rollout.rollout_id)
    assert episode.missing_token_ids == 0
    return [turn.call for turn in episode.turns]


async def test_in_process_and_over_http_record_the_same_tokens(
    service: ChatService, endpoint: str, store: InMemoryLightningStore
) -> None:
    proxy = LLMProxy(store=store)
    proxy.sampling_parameters = {"train": {"temperature": 0.8}}
    await proxy.start()
    remote = HttpBackend(endpoint, tempered_logprobs=True)
    runs: list[list[TokenCall]] = []
    for backend in (service, remote):
        proxy.set_backend("tiny", backend)
        runs.append(await converse(proxy, store))
    await proxy.stop()
    for here, there in zip(*runs, strict=True):
        assert here.prompt_ids.tolist() == there.prompt_ids.tolist()
        assert here.response_ids.tolist() == there.response_ids.tolist()
        assert (here.temperature, there.temperature) == (0.8, 0.8)
        assert here.logprobs is not None
        assert there.logprobs is not None
        np.testing.assert_allclose(here.logprobs, there.logprobs, atol=1e-5)
    assert len({tuple(call.response_ids.tolist()) for call in runs[0]}) > 1


async def test_the_engines_refusals_reach_the_agent(
    service: ChatService, endpoint: str, store: InMemoryLightningStore
) -> None:
    proxy = LLMProxy(store=store)
    await proxy.start()
    try:
        remote = HttpBackend(endpoint)
        for backend in (service, remote):
            proxy.set_backend("tiny", backend)
            rollout = await store.start_rollout("a task")
            async with client_for(proxy, rollout) as client:
                with pytest.raises(openai.BadRequestError, match="temperature"):
                    await client.chat.completions.create(
                        model="tiny", messages=[{"role": "user", "content": "what ?"}], temperature=-1
                    )
            (span,) = await store.query_spans(rollout.rollout_id)
            assert "temperature" in (span.status.description or "")
    finally:
        await proxy.stop()
