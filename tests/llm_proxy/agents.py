"""Agents that ask the same thing in each interface, with the clients that their users have.

Used by the tests that go through the whole gateway. Streams are read event by event, so that what comes, and when, can
be looked at.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import anthropic
import openai
import orjson

from agentlightning.llm_proxy import LLMProxy
from agentlightning.types import AttemptedRollout
from tests.inference.conftest import QUESTION, TOOLS

Json = dict[str, Any]
Name = Literal["chat", "completions", "responses", "messages", "embeddings"]

NAMES: tuple[Name, ...] = ("chat", "completions", "responses", "messages", "embeddings")
WRITERS: tuple[Name, ...] = ("chat", "completions", "responses", "messages")
"""Those that can be streamed."""
PATHS: dict[Name, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "messages": "/messages",
    "embeddings": "/embeddings",
}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n not much of a picture").decode()
FUNCTION: Json = TOOLS[0]["function"]
ERRORS = (openai.APIError, anthropic.APIError)


@dataclass
class Got:
    """What an agent got."""

    texts: dict[int, str] = field(default_factory=dict[int, str])
    """By choice."""
    tools: list[tuple[str, Json]] = field(default_factory=list[tuple[str, Json]])
    logprobs: list[float] = field(default_factory=list[float])
    events: int = 0
    """Events of the stream that brought something of the answer."""
    vector: list[float] = field(default_factory=list[float])


def body_of(
    name: Name,
    *,
    model: str = "main",
    tools: bool = False,
    n: int = 1,
    logprobs: bool = False,
    image: bool = False,
    text: str = QUESTION["content"],
) -> Json:
    """What an agent sends."""
    limit = "max_output_tokens" if name == "responses" else "max_tokens"
    body: Json = {"model": model} if name == "embeddings" else {"model": model, limit: 40}
    match name:
        case "chat":
            url = {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}
            parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": url}]
            body["messages"] = [{"role": "user", "content": parts if image else text}]
            body |= {"tools": TOOLS} if tools else {}
            body |= {"logprobs": True} if logprobs else {}
        case "completions":
            body["prompt"] = text
            body |= {"logprobs": 1} if logprobs else {}
        case "responses":
            parts = [{"type": "input_text", "text": text}]
            parts += [{"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"}] * image
            body["input"] = [{"role": "user", "content": parts}]
            body |= {"tools": [{"type": "function", **FUNCTION}]} if tools else {}
            body |= {"include": ["message.output_text.logprobs"]} if logprobs else {}
        case "messages":
            source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
            parts = [{"type": "text", "text": text}] + [{"type": "image", "source": source}] * image
            body["messages"] = [{"role": "user", "content": parts}]
            tool = {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}
            body |= {"tools": [tool]} if tools else {}
        case "embeddings":
            body["input"] = text
    return body | ({"n": n} if n > 1 else {})


async def ask(
    name: Name,
    proxy: LLMProxy,
    rollout: AttemptedRollout | None = None,
    *,
    stream: bool = False,
    on_event: Callable[[], None] = lambda: None,
    key: str | None = None,
    **features: Any,
) -> Got:
    """Ask, with the client that speaks the interface. It repeats nothing."""
    ids = (rollout.rollout_id, rollout.attempt.attempt_id) if rollout else (None, None)
    resource = proxy.as_resource(*ids)
    body = body_of(name, **features)
    shared: Json = {"base_url": resource.endpoint, "api_key": key or resource.api_key, "max_retries": 0, "timeout": 60}
    async with asyncio.timeout(60):
        if name == "messages":
            async with anthropic.AsyncAnthropic(**shared) as client:
                answer = await client.messages.create(**body, stream=stream)
                return await _messages(answer, on_event) if stream else _message(answer)
        async with openai.AsyncOpenAI(**shared) as client:
            if name == "embeddings":
                found = await client.embeddings.create(**body, encoding_format="float")
                return Got(vector=found.data[0].embedding)
            make = {"chat": client.chat.completions, "completions": client.completions, "responses": client.responses}
            answer = await make[name].create(**body, stream=stream)
            if name == "responses":
                return await _responses(answer, on_event) if stream else _response(answer)
            return await _chunks(name, answer, on_event) if stream else _choices(name, answer)


def _choices(name: Name, answer: Any) -> Got:
    got = Got()
    for choice in answer.choices:
        if name == "completions":
            got.texts[choice.index] = choice.text
            got.logprobs += (choice.logprobs and choice.logprobs.token_logprobs) or []
            continue
        got.texts[choice.index] = choice.message.content or ""
        got.tools += [_tool(call.function) for call in choice.message.tool_calls or []]
        got.logprobs += [token.logprob for token in (choice.logprobs and choice.logprobs.content) or []]
    return got


async def _chunks(name: Name, answer: Any, on_event: Callable[[], None]) -> Got:
    got, calls, ended = Got(), dict[int, list[str]](), set[int]()
    async for chunk in answer:
        on_event()
        for choice in chunk.choices:
            chat = name == "chat"
            said = (choice.delta.content if chat else choice.text) or ""
            pieces = (choice.delta.tool_calls or []) if chat else []
            got.events += bool(said or pieces)
            got.texts[choice.index] = got.texts.get(choice.index, "") + said
            for piece in pieces:
                call = calls.setdefault(piece.index, ["", ""])
                call[0] += piece.function.name or ""
                call[1] += piece.function.arguments or ""
            logprobs = choice.logprobs
            if logprobs:
                got.logprobs += [t.logprob for t in logprobs.content or []] if chat else logprobs.token_logprobs
            if choice.finish_reason:
                ended.add(choice.index)
    assert ended == got.texts.keys(), "every choice says why it ended"
    got.tools = [(tool, orjson.loads(arguments)) for tool, arguments in calls.values()]
    return got


def _response(answer: Any) -> Got:
    got = Got({0: answer.output_text})
    got.tools = [_tool(item) for item in answer.output if item.type == "function_call"]
    parts = [part for item in answer.output if item.type == "message" for part in item.content]
    got.logprobs = [token.logprob for part in parts for token in part.logprobs or []]
    return got


async def _responses(answer: Any, on_event: Callable[[], None]) -> Got:
    events, said, whole = 0, "", None
    async for event in answer:
        on_event()
        events += event.type.endswith(".delta")
        said += event.delta if event.type == "response.output_text.delta" else ""
        if event.type in ("response.completed", "response.incomplete"):
            whole = event.response
    assert whole is not None, "a stream ends with the whole response"
    got = _response(whole)
    assert got.texts[0] == said
    got.events = events
    return got


def _message(answer: Any) -> Got:
    got = Got({0: "".join(block.text for block in answer.content if block.type == "text")})
    got.tools = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    return got


async def _messages(answer: Any, on_event: Callable[[], None]) -> Got:
    got, names, ended = Got({0: ""}), dict[int, list[str]](), False
    async for event in answer:
        on_event()
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            names[event.index] = [event.content_block.name, ""]
        elif event.type == "content_block_delta":
            got.events += 1
            if event.delta.type == "text_delta":
                got.texts[0] += event.delta.text
            elif event.delta.type == "input_json_delta":
                names[event.index][1] += event.delta.partial_json
        ended = ended or event.type == "message_stop"
    assert ended, "a stream ends with `message_stop`"
    got.tools = [(tool, orjson.loads(arguments)) for tool, arguments in names.values()]
    return got


def _tool(function: Any) -> tuple[str, Json]:
    return function.name, orjson.loads(function.arguments)
