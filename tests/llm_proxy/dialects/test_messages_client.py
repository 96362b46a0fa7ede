"""The stock `anthropic` client, sync and async, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from agentlightning.types import RequestError

from .messages_app import CALL, Answering, completion, serving

ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
async def app() -> AsyncIterator[Answering]:
    answering = Answering()
    async with serving("/v1/messages", answering.handle) as answering.url:
        yield answering


@pytest.fixture
async def client(app: Answering) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=app.url, api_key="k", max_retries=0) as made:
        yield made


async def test_an_answer(app: Answering, client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(**ASK, system="Be brief.", extra_body={"temperature": 0.5})
    assert message.id == "msg_1"
    assert [(block.type, block.text) for block in message.content if block.type == "text"] == [("text", "Hello there.")]
    assert (message.stop_reason, message.stop_sequence, message.model) == ("end_turn", None, "tiny")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 7)
    assert app.asked == [
        {
            "model": "tiny",
            "max_tokens": 64,
            "temperature": 0.5,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        }
    ]


def _sync_calls(url: str) -> tuple[list[str], Any, Any]:
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        with client.messages.stream(**ASK) as stream:
            texts = list(stream.text_stream)
            streamed = stream.get_final_message()
        return texts, streamed, client.messages.create(**ASK)


async def test_the_sync_client_gets_the_same_with_and_without_a_stream(app: Answering) -> None:
    texts, streamed, whole = await asyncio.to_thread(_sync_calls, app.url)
    assert texts == ["Hel", "lo t", "here."]
    assert streamed.to_dict(exclude_none=True) == whole.to_dict(exclude_none=True)
    assert app.asked[0]["stream_options"] == {"include_usage": True}


async def test_raw_events_come_in_anthropics_order(app: Answering, client: anthropic.AsyncAnthropic) -> None:
    app.response = completion({"reasoning": "hm", "content": "It is", "tool_calls": [CALL]}, "tool_calls")
    kinds: list[str] = []
    async for event in await client.messages.create(**ASK, stream=True):
        if not kinds or kinds[-1] != event.type:
            kinds.append(event.type)
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds == ["message_start", *block, *block, *block, "message_delta", "message_stop"]


async def test_a_loop_with_a_tool(app: Answering, client: anthropic.AsyncAnthropic) -> None:
    app.response = completion({"content": None, "tool_calls": [CALL]}, "tool_calls")
    async with client.messages.stream(**ASK, tools=[TOOL], tool_choice={"type": "any"}) as stream:
        first = await stream.get_final_message()
    (use,) = first.content
    assert first.stop_reason == "tool_use"
    assert use.type == "tool_use"
    assert (use.id, use.name, use.input) == ("call_1", "weather", {"city": "Zürich"})
    app.response = completion({"content": "Sunny."})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "20 °C"}]}
    turns: list[Any] = [
        *ASK["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    await client.messages.create(model="tiny", max_tokens=9, messages=turns, tools=[TOOL])
    function = {"name": "weather", "description": "Tells it.", "parameters": TOOL["input_schema"]}
    assert app.asked[0]["tools"] == [{"type": "function", "function": function}]
    assert app.asked[0]["tool_choice"] == "required"
    assert app.asked[1]["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL | {"function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "20 °C"},
    ]


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (404, "not_found_error", anthropic.NotFoundError),
        (409, "invalid_request_error", anthropic.ConflictError),
        (413, "request_too_large", anthropic.APIStatusError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (502, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.InternalServerError),
    ],
)
async def test_errors_have_anthropics_form(
    app: Answering, client: anthropic.AsyncAnthropic, status: int, kind: str, expected: type[anthropic.APIStatusError]
) -> None:
    app.error = RequestError("so it is", status=status)
    for stream in (False, True):
        with pytest.raises(expected) as caught:
            await client.messages.create(**ASK, stream=stream)
        assert caught.value.status_code == status
        assert caught.value.body == {"type": "error", "error": {"type": kind, "message": "so it is"}}


async def test_an_error_midway_ends_the_stream_with_an_error_event(
    app: Answering, client: anthropic.AsyncAnthropic
) -> None:
    app.error, app.error_after = RequestError("the backend died", status=502), 9
    got: list[str] = []
    with pytest.raises(anthropic.APIStatusError, match="the backend died"):
        await _read(client, got)
    assert got == ["Hel", "lo t"]


async def _read(client: anthropic.AsyncAnthropic, into: list[str]) -> None:
    async with client.messages.stream(**ASK) as stream:
        async for text in stream.text_stream:
            into.append(text)  # noqa: PERF401  # what came before an error counts


async def test_what_the_client_may_not_send_is_named(app: Answering, client: anthropic.AsyncAnthropic) -> None:
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match=r"`tools\[0\].type` is 'web_search_20250305'"):
        await client.messages.create(**ASK, tools=[search])
    assert app.asked == []
