"""Chat as a stream: OpenAI's chunks, which add up to the whole answer, whatever the model says."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.inference import ChatService, Engine, Generation, Piece
from agentlightning.inference.chat_answer import ChatAnswer
from agentlightning.inference.chat_request import parse_chat_request
from agentlightning.inference.text import Vocabulary
from agentlightning.types import ChatReply, RequestError

from .assembled import Json, chat_from
from .conftest import ANSWER, CALLING, QUESTION, RESULT, TOOLS, make_model, make_tokenizer
from .test_engine import wait_until

Start = Callable[..., Engine]
TOKENIZER = make_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, [TOKENIZER.eos_token_id])


@pytest.fixture
def service(start: Start, trained: Any, tokenizer: Any) -> ChatService:
    return ChatService(start(trained, tokenizer=tokenizer), tokenizer, "tiny", aliases=["main_llm"])


@pytest.fixture
def random_service(start: Start, model: Any, endless: Any) -> ChatService:
    return ChatService(start(model), endless, "tiny")


def asking(*messages: Any, **fields: Any) -> Json:
    return {"messages": list(messages), "tools": TOOLS, "temperature": 0, "max_tokens": 60, "stream": True, **fields}


async def streamed(service: ChatService, body: Json) -> tuple[list[Json], ChatReply]:
    items = [item async for item in service.stream("chat", body)]
    chunks = [item for item in items[:-1] if not isinstance(item, ChatReply)]
    assert len(chunks) == len(items) - 1, "only the last is the reply"
    assert isinstance(items[-1], ChatReply)
    return chunks, items[-1]


def deltas(chunks: list[Json], choice: int = 0) -> list[Json]:
    return [part["delta"] for chunk in chunks for part in chunk["choices"] if part["index"] == choice]


def without(response: Json, *names: str) -> Json:
    return {name: value for name, value in response.items() if name not in names}


async def test_text_in_openais_chunks(service: ChatService) -> None:
    body = asking(QUESTION, CALLING, RESULT, stream_options={"include_usage": True})
    del body["tools"]
    body |= {"messages": [QUESTION], "seed": 3, "temperature": 1.5}
    chunks, reply = await streamed(service, body)
    first, *middle, finish, usage = chunks
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in middle)
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == reply.response["choices"][0]["finish_reason"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in (first, *middle)] == [None] * (len(chunks) - 2)
    assert (usage["choices"], usage["usage"]) == ([], reply.response["usage"])
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len(middle) > 5, "text comes as it is sampled"


async def test_a_tool_call_comes_in_one_delta(service: ChatService) -> None:
    chunks, reply = await streamed(service, asking(QUESTION))
    (call,) = reply.response["choices"][0]["message"]["tool_calls"]
    said = deltas(chunks)
    assert said[0] == {"role": "assistant", "content": None}
    assert said[-2:] == [{"tool_calls": [{"index": 0, **call}]}, {}]
    assert "".join(delta["content"] for delta in said[1:-2]) == "Let me see."
    assert json.loads(call["function"]["arguments"]) == {"expression": "3 + 4"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert "usage" not in chunks[-1]


async def test_where_no_tool_is_called_after_all_the_text_is_whole(service: ChatService) -> None:
    chunks, reply = await streamed(service, asking(QUESTION, CALLING, RESULT))
    assert chat_from(chunks) == without(reply.response, "usage")
    assert reply.response["choices"][0]["message"] == {"role": "assistant", "content": ANSWER["content"]}


async def test_an_empty_answer_is_an_empty_text(service: ChatService) -> None:
    chunks, reply = await streamed(service, asking(QUESTION, CALLING, RESULT, stop=["#"]))
    assert chat_from(chunks) == without(reply.response, "usage")
    assert reply.response["choices"][0]["message"] == {"role": "assistant", "content": ""}


async def test_a_stop_string_is_not_sent_in_part(service: ChatService) -> None:
    chunks, reply = await streamed(service, asking(QUESTION, CALLING, RESULT, stop=["7 ###"]))
    assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == "### "
    assert chat_from(chunks) == without(reply.response, "usage")


async def test_the_stream_is_what_the_call_answers(service: ChatService, random_service: ChatService) -> None:
    everything = {
        "logprobs": True,
        "top_logprobs": 2,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    bodies = [
        (service, asking(QUESTION, n=2, **everything)),
        (random_service, asking(QUESTION, temperature=1, seed=5, n=4, **everything)),
        (random_service, asking(QUESTION, temperature=1, seed=6, n=3, stop=["e", "\ufffd"])),
    ]
    for answering, body in bodies:
        whole = await answering.call("chat", body)
        chunks, reply = await streamed(answering, body)
        used = () if "stream_options" in body else ("usage",)
        assert chat_from(chunks) == without(reply.response, *used)
        unlike = ("id", "created")
        assert without(reply.response, *unlike) == without(whole.response, *unlike)
        for one, other in zip(reply.calls, whole.calls, strict=True):
            assert one.to_bytes() == other.to_bytes()


async def test_ids_and_logprobs_come_with_their_tokens(random_service: ChatService) -> None:
    body = {"messages": [QUESTION], "max_tokens": 12, "n": 2, "seed": 1, "logprobs": True, "return_token_ids": True}
    chunks, reply = await streamed(random_service, body)
    assert chunks[0]["prompt_token_ids"] == reply.calls[0].prompt_ids.tolist()
    assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
    for which, call in enumerate(reply.calls):
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == which]
        assert [token for part in parts for token in part.get("token_ids", [])] == call.response_ids.tolist()
        told = [entry["logprob"] for part in parts for entry in (part["logprobs"] or {"content": []})["content"]]
        assert told == call.logprobs.tolist()
    order = [part["index"] for chunk in chunks for part in chunk["choices"]]
    assert order != sorted(order), "choices come as they are sampled, not one after the other"


async def test_only_what_was_asked_for_is_sent(random_service: ChatService) -> None:
    chunks, _ = await streamed(random_service, {"messages": [QUESTION], "max_tokens": 5})
    for chunk in chunks:
        assert set(chunk) == {"id", "object", "created", "model", "system_fingerprint", "choices"}
        assert set(chunk["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}
        assert chunk["choices"][0]["logprobs"] is None


async def test_the_version_of_the_weights_is_told(random_service: ChatService) -> None:
    random_service.engine.set_version(7)
    chunks, reply = await streamed(random_service, {"messages": [QUESTION], "max_tokens": 3})
    assert {chunk["system_fingerprint"] for chunk in chunks} == {"weights-7"} == {reply.response["system_fingerprint"]}
    assert reply.calls[0].weights_version == 7


async def test_refusals_come_before_any_chunk(service: ChatService) -> None:
    refused = [
        ({"messages": []}, "messages"),
        ({"messages": [QUESTION], "model": "gpt-4o"}, "model"),
        ({"messages": [{"role": "user", "content": "seven " * 900}]}, "messages"),
    ]
    for body, field in refused:
        with pytest.raises(RequestError) as caught:
            await anext(service.stream("chat", body))
        assert caught.value.param == field


async def test_an_engine_that_fails_midway_says_so(start: Start, endless: Any) -> None:
    model = make_model()
    service, runs = ChatService(start(model), endless, "tiny"), itertools.count()

    def broken(*_: Any) -> None:
        if next(runs) >= 4:
            raise MemoryError("no room")

    model.model.layers[2].register_forward_pre_hook(broken)
    seen: list[Any] = []

    async def read() -> None:
        async for item in service.stream("chat", {"messages": [QUESTION], "max_tokens": 50}):
            seen.append(item)  # noqa: PERF401  # an error comes

    with pytest.raises(RequestError, match="no room") as caught:
        await read()
    assert caught.value.status == 500
    assert seen


async def test_diverged_weights_are_the_servers_fault(start: Start, endless: Any) -> None:
    model = make_model()
    service = ChatService(start(model), endless, "tiny")
    with service.engine.updating(), torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RequestError, match="diverged") as caught:
        await anext(service.stream("chat", {"messages": [QUESTION], "n": 3}))
    assert (caught.value.status, caught.value.code) == (500, "model_diverged")


async def test_closing_the_stream_frees_what_it_holds(random_service: ChatService) -> None:
    engine = random_service.engine
    async with aclosing(random_service.stream("chat", {"messages": [QUESTION], "max_tokens": 400, "n": 3})) as items:
        await anext(items)
    await asyncio.to_thread(wait_until, lambda: engine.stats()["live"] + engine.stats()["queued"] == 0)
    assert engine.stats()["tokens"] < 1000


# What follows needs no engine: the answer is fed with any tokens at all, in any pieces.

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1 + 2é"}}\n</tool_call>'
PHRASES = st.sampled_from(
    [CALL, "\n" + CALL, CALL[:-12], "<tool_call>oops</tool_call>", "\n", " ", "é€😀", "stop", "st"]
)
REPLIES = st.lists(PHRASES | st.text(max_size=8), max_size=6).map("".join)


@st.composite
def generations(draw: st.DrawFn) -> tuple[list[int], str]:
    """Tokens of text with calls, or of no sense, and why they end."""
    ids = TOKENIZER.encode(draw(REPLIES)) + draw(st.lists(st.integers(0, 310), max_size=10))
    ids = [token for token in ids if token != TOKENIZER.eos_token_id]
    if draw(st.booleans()) or not ids:
        return [*ids, TOKENIZER.eos_token_id], "stop"
    return ids, draw(st.sampled_from(["stop", "length"]))


def generation(ids: list[int], finish: Any) -> Generation:
    best = tuple(((token, -0.5), (5, -float("inf"))) for token in ids)
    logprobs = -np.arange(len(ids), dtype=np.float32)
    return Generation(np.array([1, 2], np.int32), np.array(ids, np.int32), logprobs, finish, 3, 1.0, best)


def answer_to(body: Json, whole: list[Generation]) -> ChatAnswer:
    request = parse_chat_request(body)
    return ChatAnswer("tiny", VOCABULARY, request, [(one.prompt_ids, request.params) for one in whole])


@settings(deadline=None, max_examples=400)
@given(
    said=st.lists(generations(), min_size=1, max_size=3),
    stops=st.lists(st.sampled_from(["stop", "</tool", "\n\n", "€", "1"]), max_size=2),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    data=st.data(),
)
def test_pieces_add_up_to_the_whole(
    said: list[tuple[list[int], str]], stops: list[str], flags: tuple[bool, ...], data: st.DataObject
) -> None:
    body = {"messages": [QUESTION], "tools": TOOLS if flags[0] else None, "stop": stops, "logprobs": flags[1]}
    body |= {"return_token_ids": flags[2], "stream_options": {"include_usage": flags[3]}}
    whole = [generation(*one) for one in said]
    at_once, piecewise = answer_to(body, whole), answer_to(body, whole)
    chunks: list[Json] = []
    for which, one in enumerate(whole):
        at_once.feed(which, Piece.whole(one))
        at_once.finish(which, one)
    for which, one in data.draw(st.permutations(list(enumerate(whole)))):
        cuts = sorted(data.draw(st.sets(st.integers(1, len(one.token_ids)), max_size=len(one.token_ids))))
        full = Piece.whole(one)
        for a, b in itertools.pairwise(sorted({0, *cuts, len(one.token_ids)})):
            piece = Piece(3, full.token_ids[a:b], full.logprobs[a:b], full.likeliest[a:b])
            chunks += piecewise.feed(which, piece)
        chunks += piecewise.finish(which, one)
    chunks += piecewise.end()
    json.dumps(chunks, allow_nan=False)
    response = piecewise.response()
    assert without(response, "id", "created") == without(at_once.response(), "id", "created")
    assert chat_from(chunks) == (response if flags[3] else without(response, "usage"))
