"""`AnthropicBackend` against a real HTTP endpoint that keeps to Anthropic's documented contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anthropic
import pytest

from agentlightning.llm_proxy.backend import Dialect
from agentlightning.llm_proxy.backends.anthropic import AnthropicBackend
from agentlightning.llm_proxy.backends.assemble import Assembler
from agentlightning.llm_proxy.backends.upstream import UpstreamError
from agentlightning.llm_proxy.dialects.messages import MESSAGES
from agentlightning.types import ChatReply, RequestError

from ..dialects.messages_app import Answering, serving
from .fake_anthropic import KEY, USE, FakeAnthropic, error, events, message, text

Json = dict[str, Any]
QUESTION: list[Json] = [{"role": "user", "content": "Hi"}]
THOUGHT = {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBCgIYAhIM"}
CALL = {
    "id": "toolu_01A",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Zürich","days":2}'},
}
ANSWERS = [
    message(text("Hello! How are you?")),
    message(THOUGHT, text("I'll look."), USE, USE | {"id": "toolu_01B", "input": {}}, stop_reason="tool_use"),
    message(USE, stop_reason="tool_use"),
    message(text("one two"), stop_reason="stop_sequence", stop_sequence="three"),
    message(text("cut of"), stop_reason="max_tokens"),
    message(text("No."), stop_reason="refusal"),
    message(),
]


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    endpoint = FakeAnthropic()
    async with serving("/v1/messages", endpoint.handle) as endpoint.url:
        yield endpoint


@pytest.fixture
async def backend(fake: FakeAnthropic) -> AsyncIterator[AnthropicBackend]:
    made = AnthropicBackend(fake.url, KEY, model="claude-test")
    yield made
    await made.close()


def chat(**more: Any) -> Json:
    return {"model": "main", "messages": QUESTION, **more}


def native(**more: Any) -> Json:
    return {"model": "main", "max_tokens": 9, "messages": QUESTION, **more}


async def collect(parts: AsyncGenerator[Json | ChatReply, None]) -> tuple[list[Json], ChatReply]:
    async with aclosing(parts):
        *items, reply = [part async for part in parts]
    assert isinstance(reply, ChatReply)
    assert reply.calls == []
    return [item for item in items if isinstance(item, dict)], reply


async def test_a_chat_completion(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    fake.answer = message(THOUGHT, text("I'll look."), USE, stop_reason="tool_use")
    body = chat(temperature=0.5)
    reply = await backend.call("chat", body)
    assert body == chat(temperature=0.5)
    assert fake.bodies == [
        {
            "model": "claude-test",
            "max_tokens": 4096,
            "temperature": 0.5,
            "messages": [{"role": "user", "content": [text("Hi")]}],
        }
    ]
    assert (fake.headers[0]["x-api-key"], fake.headers[0]["anthropic-version"]) == (KEY, "2023-06-01")
    assert not {"authorization", "anthropic-beta"} & fake.headers[0].keys()
    assert reply.calls == []
    assert reply.response.pop("created") > 0
    assert reply.response == {
        "id": fake.answer["id"],
        "object": "chat.completion",
        "model": "claude-test-20260101",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "I'll look.",
                    "reasoning": "Let me see.",
                    "tool_calls": [CALL],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 30,
            "completion_tokens": 15,
            "total_tokens": 45,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_creation_tokens": 2},
        },
    }


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_streamed_chat_completion_is_the_whole_one(
    backend: AnthropicBackend, fake: FakeAnthropic, answer: Json
) -> None:
    fake.answer = answer
    whole = (await backend.call("chat", chat())).response
    body = chat(stream=True, stream_options={"include_usage": True})
    chunks, reply = await collect(backend.stream("chat", body))
    assert reply.response | {"created": 0} == whole | {"created": 0}
    assert {chunk["created"] for chunk in chunks} == {reply.response["created"]}
    # What an OpenAI client puts together from the chunks.
    assembler = Assembler("test", "chat")
    for chunk in chunks:
        assembler.feed(chunk)
    told = assembler.response()
    assert told["usage"] == whole["usage"]
    assert told["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert told["choices"][0].get("stop_reason") == whole["choices"][0].get("stop_reason")
    said, expected = told["choices"][0]["message"], whole["choices"][0]["message"]
    assert (said["content"] or "", said.get("reasoning")) == (expected["content"] or "", expected.get("reasoning"))
    calls = [
        {"id": call["id"], "type": "function", "function": call["function"]} for call in said.get("tool_calls") or []
    ]
    assert calls == expected.get("tool_calls", [])


async def test_without_being_asked_a_stream_tells_no_usage(backend: AnthropicBackend) -> None:
    chunks, reply = await collect(backend.stream("chat", chat(stream=True)))
    assert all(chunk["choices"] for chunk in chunks)
    assert reply.response["usage"]["completion_tokens"] == 15


@pytest.mark.parametrize("answer", ANSWERS)
async def test_messages_pass_through(backend: AnthropicBackend, fake: FakeAnthropic, answer: Json) -> None:
    fake.answer = answer
    asked = native(thinking={"type": "adaptive"}, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert (await backend.call("messages", asked)).response == answer
    passed, reply = await collect(backend.stream("messages", asked | {"stream": True}))
    assert passed == events(answer)
    assert reply.response == answer
    assert fake.bodies == [
        asked | {"model": "claude-test"},
        asked | {"model": "claude-test", "stream": True},
    ]


async def test_blocks_of_anthropics_own_tools_are_kept(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    cited = {"type": "text", "text": "It is.", "citations": [{"type": "web_search_result_location", "url": "u"}]}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    deltas = [
        (search | {"input": {}}, {"type": "input_json_delta", "partial_json": '{"query":"x"}'}),
        (found, None),
        (text("It is."), {"type": "citations_delta", "citation": cited["citations"][0]}),
    ]
    whole = message(search, found, cited)
    start, *_, delta, stop = events(whole | {"content": []})
    middle: list[Json] = []
    for index, (block, change) in enumerate(deltas):
        middle.append({"type": "content_block_start", "index": index, "content_block": block})
        middle += [{"type": "content_block_delta", "index": index, "delta": change}] if change else []
        middle.append({"type": "content_block_stop", "index": index})
    fake.events = [start, *middle, {"type": "of_tomorrow"}, delta, stop]
    _, reply = await collect(backend.stream("messages", native(stream=True)))
    assert reply.response == whole
    assert MESSAGES.answer_to_chat(whole)["choices"][0]["message"] == {"role": "assistant", "content": "It is."}


async def test_a_whole_conversation_is_one_that_anthropic_takes(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    second = CALL | {"id": "toolu_01B", "function": {"name": "weather", "arguments": ""}}
    broken = CALL | {"id": "toolu_01C", "function": {"name": "weather", "arguments": "not json"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    web = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    await backend.call(
        "chat",
        chat(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [text("Be kind.")]},
                {"role": "user", "content": [text("Look:"), image, web]},
                {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [CALL, second, broken]},
                {"role": "tool", "tool_call_id": "toolu_01A", "content": "20 °C"},
                {"role": "tool", "tool_call_id": "toolu_01B", "content": [text("a"), text("b")]},
                {"role": "tool", "tool_call_id": "toolu_01C", "content": ""},
                {"role": "user", "content": "So?"},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": "Well?"},
            ],
        ),
    )
    (sent,) = fake.bodies
    assert sent["system"] == [text("Be brief."), text("Be kind.")]
    assert sent["messages"] == [
        {
            "role": "user",
            "content": [
                text("Look:"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                USE,
                USE | {"id": "toolu_01B", "input": {}},
                USE | {"id": "toolu_01C", "input": {"agentlightning.raw_arguments": "not json"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_01A", "content": "20 °C"},
                {"type": "tool_result", "tool_use_id": "toolu_01B", "content": [text("a"), text("b")]},
                {"type": "tool_result", "tool_use_id": "toolu_01C", "content": []},
                text("So?"),
                text("Well?"),
            ],
        },
    ]


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["A", "B"], "top_p": 0.5, "top_k": 3}, {"stop_sequences": ["A", "B"], "top_p": 0.5, "top_k": 3}),
        ({"top_k": -1, "n": 1, "logprobs": False, "presence_penalty": 0, "repetition_penalty": 1.0, "x": None}, {}),
        ({"seed": 4, "store": True, "response_format": {"type": "text"}}, {}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"reasoning_effort": "high"}, {"output_config": {"effort": "high"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "o", "schema": SCHEMA}}},
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"tools": [FUNCTION]}, {"tools": [TOOL]}),
        (
            {"tools": [FUNCTION], "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        ({"tools": [FUNCTION], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "any"}}),
        (
            {"tools": [FUNCTION], "tool_choice": "none", "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "none"}},
        ),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
        ),
    ],
)
async def test_fields(backend: AnthropicBackend, fake: FakeAnthropic, given: Json, expected: Json) -> None:
    await backend.call("chat", chat(**given))
    plain = {"model": "claude-test", "max_tokens": 4096, "messages": [{"role": "user", "content": [text("Hi")]}]}
    assert fake.bodies == [plain | expected]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [FUNCTION], "tool_choice": "sometimes"}, "tool_choice"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
    ],
)
async def test_what_anthropic_has_not_is_named(
    backend: AnthropicBackend, fake: FakeAnthropic, given: Json, where: str
) -> None:
    for ask in (backend.call("chat", chat(**given)), anext(backend.stream("chat", chat(**given, stream=True)))):
        with pytest.raises(RequestError) as caught:
            await ask
        assert (caught.value.status, caught.value.param) == (400, where)
    assert fake.bodies == []


async def test_a_newer_version_refuses_what_it_no_longer_takes(fake: FakeAnthropic) -> None:
    backend = AnthropicBackend(fake.url, KEY, version="2026-10-21")
    assert (await backend.call("chat", chat())).response["id"] == fake.answer["id"]
    with pytest.raises(UpstreamError, match="removed in this version"):
        await backend.call("chat", chat(temperature=1.0))
    await backend.close()


async def test_base_urls_and_headers(fake: FakeAnthropic) -> None:
    for url in (fake.url, f"{fake.url}/", f"{fake.url}/v1", f"{fake.url}/v1/"):
        backend = AnthropicBackend(url, KEY, betas=("a-2026", "b-2026"))
        assert (await backend.call("messages", native(model="claude-x"))).response == fake.answer
        await backend.close()
    assert {body["model"] for body in fake.bodies} == {"claude-x"}
    assert {headers["anthropic-beta"] for headers in fake.headers} == {"a-2026,b-2026"}
    assert AnthropicBackend().base_url == "https://api.anthropic.com/v1"


REFUSALS = [
    (400, error("invalid_request_error", "max_tokens: too large")),
    (401, error("authentication_error", "invalid x-api-key")),
    (413, error("request_too_large", "Request exceeds the maximum size")),
    (429, error("rate_limit_error", "slow down")),
    (500, error("api_error", "Internal server error")),
    (529, error("overloaded_error", "Overloaded")),
]


async def _asked(backend: AnthropicBackend, dialect: Dialect) -> list[RequestError]:
    """The errors of a whole and of a streamed answer."""
    body = chat() if dialect == "chat" else native()
    found: list[RequestError] = []
    with pytest.raises(RequestError) as caught:
        await backend.call(dialect, body)
    found.append(caught.value)
    with pytest.raises(RequestError) as caught:
        await collect(backend.stream(dialect, body | {"stream": True}))
    return [*found, caught.value]


@pytest.mark.parametrize(("status", "body"), REFUSALS)
async def test_refusals(backend: AnthropicBackend, fake: FakeAnthropic, status: int, body: Json) -> None:
    fake.refuse = (status, body)
    for refused in await _asked(backend, "messages"):
        assert isinstance(refused, UpstreamError)
        assert (refused.status, MESSAGES.error(refused)) == (status, body)
    told = {name: body["error"][name] for name in ("message", "type")}
    for refused in await _asked(backend, "chat"):
        assert isinstance(refused, UpstreamError)
        assert refused.status == status
        assert refused.to_body() == {"error": told | {"param": None, "code": told["type"]}}


async def test_a_refusal_that_is_no_json(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    fake.refuse = (503, b"<html>upstream connect error</html>")
    for refused in await _asked(backend, "messages"):
        shown = MESSAGES.error(refused)
        assert (refused.status, shown["type"], shown["error"]["type"]) == (503, "error", "api_error")
        assert "upstream connect error" in shown["error"]["message"]


@pytest.mark.parametrize("dialect", ["chat", "messages"])
async def test_an_overload_midway(backend: AnthropicBackend, fake: FakeAnthropic, dialect: Dialect) -> None:
    overload = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    fake.events = [*events(fake.answer)[:4], overload]
    body = (chat() if dialect == "chat" else native()) | {"stream": True}
    got: list[Any] = []
    with pytest.raises(UpstreamError) as caught:
        await _take_all(backend.stream(dialect, body), got)
    assert got
    assert not any(isinstance(part, ChatReply) for part in got)
    assert caught.value.status == 529
    assert MESSAGES.error(caught.value)["error"] == overload["error"]


async def _take_all(parts: AsyncGenerator[Json | ChatReply, None], into: list[Any]) -> None:
    async for part in parts:
        into.append(part)  # noqa: PERF401  # what came before an error counts


def _ended_early() -> list[Json | bytes]:
    return [*events(message(text("Hello!")))[:-2]]


def _mangled(**changes: Any) -> list[Json | bytes]:
    made = events(message(text("Hello!")))
    made[3] = made[3] | changes
    return [*made]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (_ended_early(), "ended its stream early"),
        ([*_ended_early(), b"event: message_delta\ndata: {"], "ended its stream early"),
        ([b"data: {]\n\n"], "invalid JSON"),
        ([b'data: "\xc3"\n\n'], "invalid JSON"),
        ([], "ended its stream early"),
        (_mangled(index=7), "malformed event"),
        (_mangled(delta={"type": "text_delta"}), "malformed event"),
        (_mangled(delta="x"), "malformed event"),
        ([*events(message(text("x")))[1:]], "malformed event"),
        ([events(message())[0], {"type": "message_stop"}], None),
    ],
)
@pytest.mark.parametrize("dialect", ["chat", "messages"])
async def test_torn_and_broken_streams(
    backend: AnthropicBackend, fake: FakeAnthropic, dialect: Dialect, sent: list[Json | bytes], expected: str | None
) -> None:
    fake.events = sent
    body = (chat() if dialect == "chat" else native()) | {"stream": True}
    if expected is None:  # it lacks a reason, and is whole all the same
        assert (await collect(backend.stream(dialect, body)))[1].response["id"] == fake.answer["id"]
        return
    with pytest.raises(RequestError, match=expected) as caught:
        await collect(backend.stream(dialect, body))
    assert caught.value.status == 502


async def test_a_connection_that_is_cut(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    fake.events, fake.tear = _ended_early(), True
    with pytest.raises(RequestError) as caught:
        await collect(backend.stream("chat", chat(stream=True)))
    assert caught.value.status == 502


async def test_nonsense_is_told_as_such(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    for nonsense, expected in [({"content": "x"}, "no list of `content`"), ([1], "no JSON object")]:
        fake.answer = nonsense  # type: ignore[assignment]
        for ask in (backend.call("chat", chat()), backend.call("messages", native())):
            with pytest.raises(RequestError, match=expected) as caught:
                await ask
            assert caught.value.status == 502


async def test_a_stream_that_is_closed_early_ends_the_request(backend: AnthropicBackend, fake: FakeAnthropic) -> None:
    fake.events, fake.hold = _ended_early(), True
    parts = backend.stream("chat", chat(stream=True))
    await anext(parts)
    await parts.aclose()
    async with asyncio.timeout(30):
        await fake.gone.wait()


@pytest.mark.parametrize("answer", [one for one in ANSWERS if THOUGHT not in one["content"]])
async def test_there_and_back_again(backend: AnthropicBackend, fake: FakeAnthropic, answer: Json) -> None:
    """client -> Messages interface -> chat -> this backend -> Anthropic gives what Anthropic gave."""
    fake.answer = answer
    given = {name: value for name, value in answer.items() if value is not None}
    app = Answering()
    app.call = lambda body: backend.call("chat", body)
    app.stream = lambda body: backend.stream("chat", body)
    asked: Any = {
        "model": "claude-test",
        "max_tokens": 9,
        "system": [text("Be brief.")],
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": [text("Hi")]},
            {"role": "assistant", "content": [text("I'll look."), USE]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01A", "content": "20 °C"}]},
        ],
    }
    async with serving("/v1/messages", app.handle) as url:
        direct = anthropic.AsyncAnthropic(
            base_url=fake.url, api_key=KEY, max_retries=0, default_headers={"x-api-key": KEY}
        )
        around = anthropic.AsyncAnthropic(base_url=url, api_key="other", max_retries=0)
        for client in (direct, around):
            async with client:
                whole = await client.messages.create(**asked)
                async with client.messages.stream(**asked) as stream:
                    streamed = await stream.get_final_message()
            for one in (whole, streamed):
                assert one.to_dict(exclude_none=True) == given
    assert fake.bodies[2] == fake.bodies[0]
    assert fake.bodies[3] == fake.bodies[1]
