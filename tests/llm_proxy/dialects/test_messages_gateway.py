"""The stock `anthropic` client through the whole gateway, and on the native engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from agentlightning.inference import Engine
from agentlightning.inference.service import ChatService
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout
from tests.inference.conftest import CALLING, QUESTION, TOOLS, endless, start, tokenizer, trained

from ..conftest import LocalBackend

__all__ = ["endless", "start", "tokenizer", "trained"]  # fixtures

ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
FUNCTION = TOOLS[0]["function"]
TOOL = {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]} | (
    {"description": FUNCTION["description"]} if "description" in FUNCTION else {}
)


def client_for(proxy: LLMProxy, rollout: AttemptedRollout, *, versioned: bool = True) -> anthropic.AsyncAnthropic:
    """The client at the attempt's URL, as it is given and without `/v1`."""
    resource = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id)
    url = resource.endpoint if versioned else resource.endpoint.removesuffix("/v1")
    return anthropic.AsyncAnthropic(base_url=url, api_key=resource.api_key, max_retries=0)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_is_answered_and_recorded(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, versioned: bool, stream: bool
) -> None:
    async with client_for(proxy, rollout, versioned=versioned) as client:
        message = await _ask(client, stream, **ASK)
    assert [block.text for block in message.content if block.type == "text"] == ["answer 0"]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 2)
    (span,) = await store.query_spans(rollout.rollout_id)
    assert span.token_call is not None
    assert span.token_call.response_ids.tolist() == [10, 2]


async def _ask(client: anthropic.AsyncAnthropic, stream: bool, **body: Any) -> anthropic.types.Message:
    if not stream:
        return await client.messages.create(**body)
    async with client.messages.stream(**body) as events:
        return await events.get_final_message()


async def test_errors_of_the_gateway_have_anthropics_form(
    proxy: LLMProxy, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    async with client_for(proxy, rollout) as client:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.messages.create(**ASK | {"model": "other"})
        assert caught.value.type == "not_found_error"
        backend.error = RuntimeError("burst")
        with pytest.raises(anthropic.InternalServerError, match="burst"):
            await client.messages.create(**ASK)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_is_the_same_tokens_in_the_next_prompt(
    store: InMemoryLightningStore,
    start: Callable[..., Engine],
    trained: Any,
    tokenizer: Any,
    stream: bool,
) -> None:
    proxy = LLMProxy(store=store)
    proxy.set_backend("tiny", ChatService(start(trained, tokenizer=tokenizer), tokenizer, "tiny"))
    await proxy.start()
    rollout = await store.start_rollout("a task")
    turns: list[Any] = [QUESTION]
    shared: dict[str, Any] = {"model": "tiny", "max_tokens": 60, "tools": [TOOL], "extra_body": {"temperature": 0}}
    try:
        async with client_for(proxy, rollout) as client:
            first = await _ask(client, stream, messages=turns, **shared)
            assert first.stop_reason == "tool_use"
            text, use = first.content
            assert (text.type, use.type) == ("text", "tool_use")
            assert getattr(text, "text", None) == CALLING["content"]
            result = {"type": "tool_result", "tool_use_id": getattr(use, "id", None), "content": "7"}
            turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
            second = await _ask(client, stream, messages=turns, **shared)
            assert [block.text for block in second.content if block.type == "text"] == ["### 7 ###"]
    finally:
        await proxy.stop()
    before, after = [span.token_call for span in await store.query_spans(rollout.rollout_id)]
    assert before is not None
    assert after is not None
    so_far = [*before.prompt_ids.tolist(), *before.response_ids.tolist()]
    assert after.prompt_ids.tolist()[: len(so_far)] == so_far
