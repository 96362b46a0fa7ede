"""What the gateway writes to the store, through the stock openai client and a backend in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
import orjson
import pytest

from agentlightning import semconv
from agentlightning.adapter import episode_from_spans
from agentlightning.llm_proxy import LLMProxy, call_seed
from agentlightning.semconv import LLM_CALL_CHOICE, LLM_CALL_LATENCY_MS, LLM_CALL_NUMBER, TOKEN_IDS
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, RequestError, Span

from .conftest import QUESTION, LocalBackend, client_for, until

TOOLS: list[Any] = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


async def spans_of(store: InMemoryLightningStore, rollout: AttemptedRollout) -> list[Span]:
    return list(await store.query_spans(rollout.rollout_id, rollout.attempt.attempt_id))


async def test_one_call_is_one_span_with_its_tokens(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=QUESTION, tools=TOOLS, temperature=0.5, top_p=0.9, max_tokens=20
        )
    assert answer.choices[0].message.content == "answer 0"
    (span,) = await spans_of(store, rollout)
    assert (span.name, span.status.status_code, span.sequence_id) == (semconv.LLM_CALL_SPAN, "OK", 1)
    assert span.trace_id == semconv.attempt_trace_id(rollout.rollout_id, rollout.attempt.attempt_id)
    assert span.token_call is not None
    assert span.token_call.prompt_ids.tolist() == [1, 2, 3]
    assert span.token_call.response_ids.tolist() == [10, 2]
    assert span.token_call.logprobs is not None
    assert span.token_call.logprobs.tolist() == [-0.5, -0.25]
    assert span.token_call.weights_version == 7
    latency = span.attributes.pop(LLM_CALL_LATENCY_MS)
    assert isinstance(latency, float)
    assert latency >= 0
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time >= span.start_time
    read = dict(span.attributes)
    assert orjson.loads(str(read.pop(semconv.GEN_AI_INPUT_MESSAGES))) == QUESTION
    assert orjson.loads(str(read.pop(semconv.GEN_AI_OUTPUT_MESSAGES))) == [{"role": "assistant", "content": "answer 0"}]
    assert orjson.loads(str(read.pop(semconv.GEN_AI_TOOL_DEFINITIONS))) == TOOLS
    assert read == {
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.GEN_AI_PROVIDER_NAME: "openai",
        semconv.GEN_AI_REQUEST_MODEL: "tiny",
        semconv.GEN_AI_REQUEST_TEMPERATURE: 0.5,
        semconv.GEN_AI_REQUEST_TOP_P: 0.9,
        semconv.GEN_AI_REQUEST_MAX_TOKENS: 20,
        semconv.GEN_AI_REQUEST_SEED: call_seed(11, 1),
        semconv.GEN_AI_RESPONSE_ID: "chatcmpl-answer 0",
        semconv.GEN_AI_RESPONSE_MODEL: "tiny",
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: ["stop"],
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 3,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: 2,
        semconv.LLM_CALL_INTERFACE: "chat",
        LLM_CALL_NUMBER: 1,
        LLM_CALL_CHOICE: 0,
        TOKEN_IDS: "recorded",
    }


async def test_the_attempt_runs_from_its_first_span_on(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    latest = await store.get_latest_attempt(rollout.rollout_id)
    assert latest is not None
    assert latest.status == "running"


async def test_a_span_is_stored_before_the_agent_has_its_answer(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        for number in range(1, 6):
            await client.chat.completions.create(model="tiny", messages=QUESTION)
            assert len(await spans_of(store, rollout)) == number


async def test_choices_are_spans_of_one_call(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        answer = await client.chat.completions.create(model="tiny", messages=QUESTION, n=3)
    assert len(answer.choices) == 3
    spans = await spans_of(store, rollout)
    assert [span.attributes[LLM_CALL_CHOICE] for span in spans] == [0, 1, 2]
    assert {span.attributes[LLM_CALL_NUMBER] for span in spans} == {1}
    assert {span.attributes[semconv.GEN_AI_RESPONSE_ID] for span in spans} == {answer.id}
    assert [s.token_call.response_ids.tolist() for s in spans if s.token_call] == [[10, 2], [11, 2], [12, 2]]
    assert [span.attributes.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS) for span in spans] == [6, None, None]
    texts = [orjson.loads(str(span.attributes[semconv.GEN_AI_OUTPUT_MESSAGES]))[0]["content"] for span in spans]
    assert texts == ["answer 0", "answer 1", "answer 2"]


async def test_a_backend_without_token_ids_is_marked(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    backend.with_tokens = False
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    spans = await spans_of(store, rollout)
    assert [span.attributes[TOKEN_IDS] for span in spans] == ["unavailable"]
    assert spans[0].token_call is None
    assert episode_from_spans(spans, rollout.rollout_id).missing_token_ids == 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RequestError("the prompt is too long", status=400, param="messages"), 400, "the prompt is too long"),
        (RuntimeError("boom"), 500, "the call failed: RuntimeError: boom"),
    ],
)
async def test_a_failed_call_is_told_to_the_agent_and_recorded(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    rollout: AttemptedRollout,
    backend: LocalBackend,
    error: Exception,
    status: int,
    message: str,
) -> None:
    backend.error = error
    async with client_for(proxy, rollout) as client:
        with pytest.raises(openai.APIStatusError, match=message) as caught:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    assert caught.value.status_code == status
    (span,) = await spans_of(store, rollout)
    assert (span.status.status_code, span.status.description) == ("ERROR", message)
    assert span.token_call is None
    assert orjson.loads(str(span.attributes[semconv.GEN_AI_INPUT_MESSAGES])) == QUESTION
    assert TOKEN_IDS not in span.attributes


async def test_a_call_that_can_not_be_recorded_is_not_answered(
    proxy: LLMProxy, rollout: AttemptedRollout, store: InMemoryLightningStore
) -> None:
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
        await store.close()
        with pytest.raises(openai.InternalServerError, match="could not record this call") as caught:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    assert caught.value.status_code == 503
    assert "the store is closed" in str(caught.value)


async def test_a_gateway_without_a_store_serves_only_calls_of_nobody(backend: LocalBackend) -> None:
    proxy = LLMProxy()
    proxy.set_backend("tiny", backend)
    await proxy.start()
    try:
        async with client_for(proxy) as client:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
        base_url = proxy.as_resource("ro-1", "at-1").endpoint
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError, match="no store"):
                await client.chat.completions.create(model="tiny", messages=QUESTION)
    finally:
        await proxy.stop()


async def test_calls_of_nobody_are_passed_on_and_not_recorded(
    proxy: LLMProxy, store: InMemoryLightningStore, backend: LocalBackend
) -> None:
    proxy.sampling_parameters = {"train": {"temperature": 1.0}, "val": {"temperature": 0.0}}
    async with client_for(proxy) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    assert backend.bodies == [{"model": "tiny", "messages": QUESTION}]
    assert (await store.statistics())["total_spans"] == 0


def test_the_sync_client_is_served_too(backend: LocalBackend) -> None:
    async def prepare() -> AttemptedRollout:
        await proxy.start()
        return await store.start_rollout("a task")

    store = InMemoryLightningStore()
    proxy = LLMProxy(store=store)
    proxy.set_backend("tiny", backend)
    rollout = asyncio.run(prepare())
    try:
        resource = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id)
        with openai.OpenAI(base_url=resource.endpoint, api_key=resource.api_key) as client:
            answer = client.chat.completions.create(model=resource.model, messages=QUESTION)
        assert answer.choices[0].message.content == "answer 0"
        assert len(asyncio.run(spans_of(store, rollout))) == 1
    finally:
        asyncio.run(proxy.stop())


async def test_32_agents_at_once_keep_their_calls_apart(
    proxy: LLMProxy, store: InMemoryLightningStore, backend: LocalBackend
) -> None:
    async def agent(index: int) -> tuple[AttemptedRollout, Sequence[Span]]:
        rollout = await store.start_rollout(index, mode="train", metadata={"seed": index})
        async with client_for(proxy, rollout) as client:
            for turn in range(4):
                messages: list[Any] = [{"role": "user", "content": f"{index}/{turn}"}]
                await client.chat.completions.create(model="tiny", messages=messages)
        return rollout, await spans_of(store, rollout)

    for index, (rollout, spans) in enumerate(await asyncio.gather(*map(agent, range(32)))):
        assert {span.attempt_id for span in spans} == {rollout.attempt.attempt_id}
        contents = [orjson.loads(str(s.attributes[semconv.GEN_AI_INPUT_MESSAGES]))[0]["content"] for s in spans]
        assert contents == [f"{index}/{turn}" for turn in range(4)]
        assert [span.attributes[LLM_CALL_NUMBER] for span in spans] == [1, 2, 3, 4]
        seeds = [span.attributes[semconv.GEN_AI_REQUEST_SEED] for span in spans]
        assert seeds == [call_seed(index, number) for number in range(1, 5)]
    assert len(backend.bodies) == 128


async def test_a_client_that_goes_away_cancels_its_call(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    backend.hold = asyncio.Event()
    async with client_for(proxy, rollout) as client:
        call = asyncio.create_task(client.chat.completions.create(model="tiny", messages=QUESTION))
        await until(lambda: backend.waiting == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: backend.cancelled == 1)
        backend.hold = None
        await client.chat.completions.create(model="tiny", messages=QUESTION)
        spans = await spans_of(store, rollout)
    assert [span.status.status_code for span in spans] == ["ERROR", "OK"]
    assert "the client went away" in (spans[0].status.description or "")
    assert [span.attributes[LLM_CALL_NUMBER] for span in spans] == [1, 2]


async def test_the_trace_becomes_an_episode(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        for _ in range(2):
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    episode = episode_from_spans(await spans_of(store, rollout), rollout.rollout_id)
    assert [t.token_ids.tolist() for t in episode.trajectories] == [[1, 2, 3, 10, 2], [1, 2, 3, 10, 2]]
    assert [t.versions.tolist() for t in episode.trajectories] == [[-1, -1, -1, 7, 7]] * 2
