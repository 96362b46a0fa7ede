"""Chat: from messages to the exact tokens and back to messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.inference import ChatService, Engine, lm_logits, packed_hidden_states
from agentlightning.types import ChatReply, RequestError

from .conftest import ANSWER, CALLING, QUESTION, RESULT, TOOLS, make_model

Start = Callable[..., Engine]


@pytest.fixture
def service(start: Start, trained: Any, tokenizer: Any) -> ChatService:
    return ChatService(start(trained, tokenizer=tokenizer), tokenizer, "tiny", aliases=["main_llm"])


@pytest.fixture
def random_service(start: Start, model: Any, endless: Any) -> ChatService:
    return ChatService(start(model), endless, "tiny")


def asking(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), "tools": TOOLS, "temperature": 0, "max_tokens": 60, **fields}


def message(reply: ChatReply) -> dict[str, Any]:
    return reply.response["choices"][0]["message"]


async def test_a_tool_call_comes_out_as_openai_has_it(service: ChatService) -> None:
    reply = await service.call("chat", asking(QUESTION))
    choice = reply.response["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "calculator"
    assert json.loads(call["function"]["arguments"]) == {"expression": "3 + 4"}
    assert reply.calls[0].finish_reason == "stop"


async def test_the_next_prompt_begins_with_the_tokens_of_the_last_turn(service: ChatService, tokenizer: Any) -> None:
    first = await service.call("chat", asking(QUESTION))
    said = message(first)
    second = await service.call("chat", asking(QUESTION, said, RESULT | {"tool_call_id": said["tool_calls"][0]["id"]}))
    assert message(second)["content"] == ANSWER["content"]
    assert "tool_calls" not in message(second)
    assert second.response["choices"][0]["finish_reason"] == "stop"
    so_far = np.concatenate([first.calls[0].prompt_ids, first.calls[0].response_ids])
    assert second.calls[0].prompt_ids[: len(so_far)].tolist() == so_far.tolist()
    assert int(second.calls[0].response_ids[-1]) == tokenizer.eos_token_id


async def test_equal_answers_have_equal_call_ids_and_others_do_not(service: ChatService) -> None:
    body = asking(QUESTION, n=2)
    ids = [
        [c["message"]["tool_calls"][0]["id"] for c in (await service.call("chat", body)).response["choices"]]
        for _ in "ab"
    ]
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[0][1]


async def test_without_tools_a_call_is_text(service: ChatService, tokenizer: Any) -> None:
    said = message(await service.call("chat", asking(QUESTION, tool_choice="none")))
    assert "tool_calls" not in said
    assert isinstance(said["content"], str)


async def test_the_call_carries_the_exact_tokens(service: ChatService, trained: Any, tokenizer: Any) -> None:
    reply = await service.call("chat", asking(QUESTION, temperature=0.8, seed=5, return_token_ids=True, logprobs=True))
    (call,) = reply.calls
    rendered = tokenizer.apply_chat_template(
        [QUESTION], tools=TOOLS, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert call.prompt_ids.tolist() == rendered == reply.response["prompt_token_ids"]
    assert call.response_ids.tolist() == reply.response["choices"][0]["token_ids"]
    assert (call.model, call.weights_version, call.temperature) == ("tiny", 0, 0.8)
    usage = reply.response["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(call.prompt_ids), len(call.response_ids))
    ids = torch.from_numpy(np.concatenate([call.prompt_ids, call.response_ids])).long()
    logits = lm_logits(trained, packed_hidden_states(trained, ids, [0, len(ids)])) / 0.8
    expected = torch.log_softmax(logits, -1)[len(rendered) - 1 : -1].gather(1, ids[len(rendered) :, None])[:, 0]
    np.testing.assert_allclose(call.logprobs, expected.numpy(), atol=1e-5, rtol=0)
    entries = reply.response["choices"][0]["logprobs"]["content"]
    np.testing.assert_allclose([entry["logprob"] for entry in entries], call.logprobs)
    assert "".join(entry["token"] for entry in entries) == tokenizer.decode(call.response_ids)
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)


async def test_greedy_calls_say_at_which_temperature_their_logprobs_are(service: ChatService) -> None:
    assert (await service.call("chat", asking(QUESTION))).calls[0].temperature == 1.0


async def test_choices_differ_and_follow_the_seed(random_service: ChatService) -> None:
    body = {"messages": [QUESTION], "max_tokens": 12, "n": 3, "seed": 4}
    one, again = await random_service.call("chat", body), await random_service.call("chat", body)
    sampled = [call.response_ids.tolist() for call in one.calls]
    assert sampled == [call.response_ids.tolist() for call in again.calls]
    assert len({tuple(ids) for ids in sampled}) == 3
    assert [choice["index"] for choice in one.response["choices"]] == [0, 1, 2]
    first = await random_service.call("chat", body | {"n": 1})
    assert first.calls[0].response_ids.tolist() == sampled[0]
    assert one.response["usage"]["completion_tokens"] == 36


async def test_a_stop_string_cuts_the_text_and_not_the_tokens(service: ChatService, tokenizer: Any) -> None:
    reply = await service.call("chat", asking(QUESTION, CALLING, RESULT, stop=[" ###", "7"]))
    assert message(reply)["content"] == "### "
    assert reply.response["choices"][0]["finish_reason"] == "stop"
    assert tokenizer.decode(reply.calls[0].response_ids).endswith("7")


async def test_what_the_length_cuts_says_so(service: ChatService) -> None:
    reply = await service.call("chat", asking(QUESTION, max_tokens=4))
    assert reply.response["choices"][0]["finish_reason"] == "length"
    assert reply.calls[0].finish_reason == "length"
    assert len(reply.calls[0].response_ids) == 4


async def test_names(service: ChatService) -> None:
    for fields in ({}, {"model": "tiny"}, {"model": "main_llm"}):
        assert (await service.call("chat", asking(QUESTION, **fields))).response["model"] == "tiny"
    with pytest.raises(RequestError, match=r"'gpt-4o'.*'tiny'") as caught:
        await service.call("chat", asking(QUESTION, model="gpt-4o"))
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


async def test_a_prompt_longer_than_the_context(service: ChatService) -> None:
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens.*context of 512") as caught:
        await service.call("chat", asking({"role": "user", "content": "What is 3 plus 4? " * 200}))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


async def test_what_the_template_refuses(service: ChatService) -> None:
    with pytest.raises(RequestError, match="the system message must come first") as caught:
        await service.call("chat", asking(QUESTION, {"role": "system", "content": "late"}))
    assert caught.value.status == 400


async def test_diverged_weights_are_the_servers_fault(start: Start, endless: Any) -> None:
    model = make_model()
    service = ChatService(start(model), endless, "tiny")
    with service.engine.updating(), torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RequestError, match="diverged") as caught:
        await service.call("chat", {"messages": [QUESTION], "n": 3})
    assert (caught.value.status, caught.value.code) == (500, "model_diverged")


async def test_a_cancelled_chat_frees_its_slots(random_service: ChatService) -> None:
    task = asyncio.create_task(random_service.call("chat", {"messages": [QUESTION], "max_tokens": 400, "n": 3}))
    engine = random_service.engine
    while engine.stats()["live"] < 3:  # noqa: ASYNC110  # the engine's thread has no event of ours
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await random_service.call("chat", {"messages": [QUESTION], "max_tokens": 1})
    assert engine.stats()["live"] == 0
    assert engine.stats()["tokens"] < 1000
