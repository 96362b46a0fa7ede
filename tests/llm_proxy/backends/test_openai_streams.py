"""The HTTP backend's streams: what the agent sees of them, the whole answer, the tokens, and every way to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from agentlightning.llm_proxy import HttpBackend, UpstreamError
from agentlightning.types import ChatReply, RequestError

from .endpoint import (
    DONE,
    PROMPT,
    Endpoint,
    Json,
    refusal,
    span,
    sse,
    streaming,
    usage,
    value,
    vllm,
    vllm_chat_chunks,
)

MESSAGES = [{"role": "user", "content": "two and two"}]
IDS = [[343, 360, 983], [4]]


@pytest.fixture
async def backend(endpoint: Endpoint) -> AsyncIterator[HttpBackend]:
    endpoint.answer = vllm
    made = HttpBackend(endpoint.url, model="served", weights_version=4)
    yield made
    await made.close()


def chat(**more: Any) -> Json:
    return {"model": "agent", "messages": MESSAGES, "stream": True, **more}


async def collect(stream: AsyncGenerator[Json | ChatReply, None], into: list[Json] | None = None) -> ChatReply:
    """The reply at the end; the chunks before it go `into` a list."""
    reply: ChatReply | None = None
    async for item in stream:
        assert reply is None, "something came after the reply"
        if isinstance(item, ChatReply):
            reply = item
        elif into is not None:
            into.append(item)
    assert reply is not None
    return reply


def chunked(ids: Any = IDS, versions: Any = None, cut: int | None = None, end: str = "well") -> Any:
    def answer(body: Json) -> Any:
        pieces = [sse([each]) for each in vllm_chat_chunks(body, ids, versions)] + [DONE]
        return streaming(pieces[:cut], end=end)

    return answer


def text_of(chunks: list[Json], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_chunks_pass_without_what_the_agent_did_not_ask_for(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = chunked(versions=[span("7", 0, 3)])
    chunks: list[Json] = []
    reply = await collect(backend.stream("chat", chat(n=2)), chunks)
    (sent,) = endpoint.bodies
    assert sent["stream_options"] == {"include_usage": True}
    assert (sent["model"], sent["return_token_ids"], sent["logprobs"], sent["temperature"]) == (
        "served",
        True,
        True,
        1.0,
    )
    seen = {key for chunk in chunks for key in chunk} | {
        key for chunk in chunks for choice in chunk["choices"] for key in choice if choice[key] is not None
    }
    assert not seen & {"usage", "token_ids", "prompt_token_ids", "logprobs", "weight_versions"}
    assert all(chunk["choices"] for chunk in chunks)
    assert (text_of(chunks, 0), text_of(chunks, 1)) == ("w343 w360 w983 ", "w4 ")
    assert [call.prompt_ids.tolist() for call in reply.calls] == [PROMPT] * 2
    assert [call.response_ids.tolist() for call in reply.calls] == IDS
    assert [call.logprobs.tolist() for call in reply.calls if call.logprobs is not None] == [
        [value(one) for one in own] for own in IDS
    ]
    assert [(call.model, call.weights_version, call.finish_reason) for call in reply.calls] == [
        ("agent", 7, "stop")
    ] * 2
    assert reply.response["usage"] == usage(len(PROMPT), 4)
    assert [choice["message"]["content"] for choice in reply.response["choices"]] == ["w343 w360 w983 ", "w4 "]
    assert reply.response["object"] == "chat.completion"
    assert "prompt_token_ids" not in reply.response
    assert all(choice["logprobs"] is None and "token_ids" not in choice for choice in reply.response["choices"])


async def test_what_the_agent_asked_for_passes(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = chunked()
    asked = {"logprobs": True, "return_token_ids": True, "stream_options": {"include_usage": True, "x": 1}}
    chunks: list[Json] = []
    reply = await collect(backend.stream("chat", chat(**asked)), chunks)
    assert endpoint.bodies[0]["stream_options"] == asked["stream_options"]
    assert chunks == vllm_chat_chunks(endpoint.bodies[0], IDS)
    assert reply.response["prompt_token_ids"] == PROMPT
    assert reply.response["choices"][0]["token_ids"] == IDS[0]


async def test_the_agents_other_stream_options_are_kept(backend: HttpBackend, endpoint: Endpoint) -> None:
    chunks: list[Json] = []
    await collect(backend.stream("chat", chat(stream_options={"x": 1})), chunks)
    assert endpoint.bodies[0]["stream_options"] == {"x": 1, "include_usage": True}
    assert all("usage" not in chunk for chunk in chunks)


async def test_completions_stream_their_tokens(backend: HttpBackend, endpoint: Endpoint) -> None:
    chunks: list[Json] = []
    reply = await collect(backend.stream("completions", {"model": "agent", "prompt": "x", "stream": True}), chunks)
    assert endpoint.paths == ["/v1/completions"]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["w677 ", "w128 ", "w493 "]
    (call,) = reply.calls
    assert (call.prompt_ids.tolist(), call.response_ids.tolist()) == ([5, 6, 7], [677, 128, 493])
    assert call.logprobs is not None
    assert call.logprobs.tolist() == [value(one) for one in (677, 128, 493)]
    (choice,) = reply.response["choices"]
    assert (reply.response["object"], choice["text"], choice["logprobs"]) == (
        "text_completion",
        "w677 w128 w493 ",
        None,
    )
    assert not {"token_ids", "prompt_token_ids"} & (choice.keys() | chunks[0]["choices"][0].keys())


async def test_streamed_and_whole_answers_give_the_same(backend: HttpBackend) -> None:
    streamed = await collect(backend.stream("chat", chat()))
    whole = await backend.call("chat", chat(stream=False))
    assert [call.to_bytes() for call in streamed.calls] == [call.to_bytes() for call in whole.calls]
    for reply in (streamed, whole):
        message = reply.response["choices"][0]["message"]
        assert (message["role"], message["content"]) == ("assistant", "w343 w360 w983 ")
    assert streamed.response["usage"] == whole.response["usage"]


async def test_chunks_arrive_before_the_answer_is_complete(backend: HttpBackend, endpoint: Endpoint) -> None:
    go = asyncio.Event()
    endpoint.answer = lambda body: streaming(
        [sse([each]) for each in vllm_chat_chunks(body, [[343]])] + [DONE], wait=go
    )
    stream = backend.stream("chat", chat())
    first = await anext(stream)
    assert isinstance(first, dict)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    go.set()
    assert (await collect(stream)).calls[0].response_ids.tolist() == [343]


async def test_closing_a_stream_ends_the_request(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = chunked(cut=2, end="hang")
    stream = backend.stream("chat", chat())
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(endpoint.gone.wait(), 20)


async def test_an_endpoint_that_refuses_stream_options_is_asked_without(
    backend: HttpBackend, endpoint: Endpoint
) -> None:
    endpoint.answer = lambda body: refusal("unknown field `stream_options`") if "stream_options" in body else vllm(body)
    for asked in (2, 3):
        reply = await collect(backend.stream("chat", chat()))
        assert len(endpoint.bodies) == asked
        assert len(reply.calls) == 1
        assert "usage" not in reply.response
    with pytest.raises(UpstreamError, match="stream_options"):
        await collect(backend.stream("chat", chat(stream_options={"include_usage": True})))


async def test_a_pause_is_told_before_any_chunk(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: refusal("the server is paused", 503)
    chunks: list[Json] = []
    with pytest.raises(UpstreamError, match="paused") as caught:
        await collect(backend.stream("chat", chat()), chunks)
    assert (caught.value.status, chunks) == (503, [])


async def test_an_abort_midway_is_no_answer(backend: HttpBackend, endpoint: Endpoint) -> None:
    def aborted(body: Json) -> Any:
        pieces = vllm_chat_chunks(body, [[343, 360]])
        pieces[-2]["choices"][0]["finish_reason"] = "abort"
        return streaming([sse(pieces), DONE])

    endpoint.answer = aborted
    chunks: list[Json] = []
    with pytest.raises(RequestError, match="gave the call up") as caught:
        await collect(backend.stream("chat", chat()), chunks)
    assert (caught.value.status, caught.value.code) == (503, "aborted")
    assert text_of(chunks) == "w343 "


def spoilt(at: int, **changes: Any) -> Any:
    def answer(body: Json) -> Any:
        pieces = vllm_chat_chunks(body, [[343, 360]])
        pieces[at]["choices"][0] |= changes
        return streaming([sse(pieces), DONE])

    return answer


ERROR = {"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}}


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (chunked(cut=3), 502, "ended its stream early"),
        (chunked(cut=3, end="cut"), 502, "early|can't be reached"),
        (chunked(cut=5), 502, "choice 0 has no `finish_reason`"),  # of two choices only one ended
        (lambda _: streaming([sse([ERROR]), DONE]), 500, "EngineCore died"),
        (lambda body: streaming([sse([vllm_chat_chunks(body)[0], ERROR]), DONE]), 500, "EngineCore died"),
        (lambda _: streaming([DONE]), 502, "without an answer"),
        (lambda _: streaming([sse([{"choices": []}]), DONE]), 502, "without an answer"),
        (lambda _: streaming([b"data: {\n\n"]), 502, "invalid JSON in its stream"),
        (lambda _: streaming([b'data: {"a": "\xc3"}\n\n']), 502, "invalid JSON in its stream"),
        (lambda _: streaming([b"data: []\n\n"]), 502, "no JSON object in its stream"),
        (lambda _: streaming([sse([{"choices": [{"delta": {}}]}]), DONE]), 502, "malformed chunk"),
        (spoilt(1, token_ids=[343, 344]), 502, "3 token ids but"),
        (spoilt(1, token_ids=[]), 502, "1 token ids but"),
        (spoilt(1, token_ids=[2**31]), 502, "malformed tokens"),
        (spoilt(1, logprobs={"content": []}), 502, "2 token ids but 1 log-probs"),
    ],
)
async def test_a_spoilt_stream_has_no_reply(
    backend: HttpBackend, endpoint: Endpoint, answer: Any, status: int, expected: str
) -> None:
    endpoint.answer = answer
    with pytest.raises(RequestError, match=expected) as caught:
        await collect(backend.stream("chat", chat(n=2)))
    assert (caught.value.status, endpoint.url in caught.value.message) == (status, True)


async def test_a_stream_that_stands_still_is_given_up(endpoint: Endpoint) -> None:
    endpoint.answer = chunked(cut=2, end="hang")
    backend = HttpBackend(endpoint.url, idle_timeout=0.3)
    chunks: list[Json] = []
    with pytest.raises(RequestError, match="did not answer in time") as caught:
        await collect(backend.stream("chat", chat()), chunks)
    await asyncio.wait_for(endpoint.gone.wait(), 20)
    await backend.close()
    assert (caught.value.status, len(chunks)) == (504, 2)


# -- dialects that pass through -------------------------------------------------------------------------------------


def event(kind: str, **more: Any) -> Json:
    return {"type": f"response.{kind}", **more}


@pytest.fixture
async def passing(endpoint: Endpoint) -> AsyncIterator[HttpBackend]:
    made = HttpBackend(endpoint.url, model="served", speaks=["chat", "responses", "messages"])
    yield made
    await made.close()


@pytest.mark.parametrize("kind", ["completed", "incomplete"])
async def test_events_of_responses_pass_on(passing: HttpBackend, endpoint: Endpoint, kind: str) -> None:
    events = [event("created", response={"id": "r"}), event("output_text.delta", delta="hi")]
    events.append(event(kind, response={"id": "r", "status": kind, "output": [1]}))
    endpoint.answer = lambda _: streaming([sse(events)])
    chunks: list[Json] = []
    body = {"model": "agent", "input": "x", "stream": True}
    reply = await collect(passing.stream("responses", body), chunks)
    assert (chunks, reply.response, reply.calls) == (events, events[-1]["response"], [])
    assert (endpoint.paths, endpoint.bodies) == (["/v1/responses"], [body | {"model": "served"}])


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event("failed", response={"error": {"code": "server_error", "message": "it broke"}})], "it broke"),
        ([event("failed", response=None)], "failed midway"),
        ([event("created", response={})], "ended its stream early"),
        ([{"type": "error", "code": "server_error", "message": "it broke"}], "it broke"),
    ],
)
async def test_a_response_that_fails_is_told(
    passing: HttpBackend, endpoint: Endpoint, events: list[Json], expected: str
) -> None:
    endpoint.answer = lambda _: streaming([sse([event("created", response={}), *events]), DONE])
    with pytest.raises(RequestError, match=expected) as caught:
        await collect(passing.stream("responses", {"model": "agent", "input": "x", "stream": True}))
    assert caught.value.status == 502


async def test_events_of_messages_pass_on_and_make_the_message(passing: HttpBackend, endpoint: Endpoint) -> None:
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 3}}
    events: list[Json] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    endpoint.answer = lambda _: streaming([b"event: x\n" + sse([each]) for each in events])
    chunks: list[Json] = []
    reply = await collect(passing.stream("messages", {"model": "agent", "messages": [], "stream": True}), chunks)
    assert chunks == events
    assert reply.response["content"] == [{"type": "text", "text": "hi"}]
    assert (reply.response["stop_reason"], reply.response["usage"]["output_tokens"]) == ("end_turn", 2)
