"""The LiteLLM backend against a real endpoint. LiteLLM needs openai 2, so this has an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from agentlightning.llm_proxy.backends.litellm import LiteLLMBackend
from agentlightning.llm_proxy.backends.upstream import UpstreamError
from agentlightning.types import ChatReply, ConfigError, RequestError

from .endpoint import PROMPT, Endpoint, Json, refusal, streaming, usage, vllm

try:
    import litellm
except ImportError:
    litellm = None  # type: ignore[assignment]

installed = pytest.mark.skipif(
    litellm is None,
    reason="LiteLLM is not here; it needs openai 2: run this file where `agentlightning[litellm]` is installed",
)
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "two and two"}]}]


def chat(**more: Any) -> Json:
    return {"model": "agent", "messages": MESSAGES, **more}


def backend_at(endpoint: Endpoint, **more: Any) -> LiteLLMBackend:
    return LiteLLMBackend("hosted_vllm/served", api_base=endpoint.url, api_key="upstream-key", **more)


async def collect(backend: LiteLLMBackend, body: Json) -> tuple[list[Json], ChatReply]:
    items = [item async for item in backend.stream("chat", body)]
    assert isinstance(items[-1], ChatReply)
    return [item for item in items if isinstance(item, dict)], items[-1]


@installed
async def test_a_call_goes_to_the_provider_and_comes_back(endpoint: Endpoint) -> None:
    endpoint.answer = vllm
    body = chat(temperature=0.5, seed=3, store=False)
    reply = await backend_at(endpoint).call("chat", body)
    (sent,) = endpoint.bodies
    assert endpoint.headers[0]["authorization"] == "Bearer upstream-key"
    assert (sent["model"], sent["temperature"], sent["seed"], "store" in sent) == ("served", 0.5, 3, False)
    (choice,) = reply.response["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("w343 w360 w983 ", "stop")
    assert (reply.response["usage"]["completion_tokens"], reply.calls) == (3, [])
    assert body == chat(temperature=0.5, seed=3, store=False)


@installed
@pytest.mark.parametrize("with_usage", [False, True])
async def test_a_stream_comes_in_chunks_and_at_last_whole(endpoint: Endpoint, with_usage: bool) -> None:
    endpoint.answer = vllm
    body = chat(stream=True, stream_options={"include_usage": with_usage})
    chunks, reply = await collect(backend_at(endpoint), body)
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert [text for text in texts if text] == ["w343 ", "w360 ", "w983 "]
    assert any("usage" in chunk for chunk in chunks) == with_usage
    (choice,) = reply.response["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("w343 w360 w983 ", "stop")
    assert reply.response["usage"]["total_tokens"] == usage(len(PROMPT), 3)["total_tokens"]


@installed
async def test_embeddings_pass(endpoint: Endpoint) -> None:
    row = {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}
    answer = {"object": "list", "data": [row], "model": "served", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    endpoint.answer = lambda _: web.json_response(answer)
    reply = await backend_at(endpoint).call("embeddings", {"model": "agent", "input": ["x"]})
    assert reply.response["data"][0]["embedding"] == [0.5, 1.0]
    assert endpoint.bodies[0]["input"] == ["x"]


@installed
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
async def test_refusals_keep_their_status(endpoint: Endpoint, status: int, stream: bool) -> None:
    endpoint.answer = lambda _: refusal("it will not", status)
    backend = backend_at(endpoint)
    with pytest.raises(UpstreamError, match="it will not") as caught:
        await (collect(backend, chat(stream=True)) if stream else backend.call("chat", chat()))
    assert caught.value.status == status
    assert len(endpoint.bodies) == 1


@installed
async def test_a_stream_that_breaks_off_has_no_reply(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: streaming(
        [b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'], end="cut"
    )
    with pytest.raises(RequestError):
        await collect(backend_at(endpoint), chat(stream=True))


REFUSED: list[tuple[str, Json, str]] = [
    ("chat", {"api_base": "http://elsewhere"}, "`api_base`"),
    ("chat", {"mock_response": "hi"}, "`mock_response`"),
    ("chat", {"extra_headers": {}}, "`extra_headers`"),
    ("embeddings", {"messages": []}, "`messages`"),
    ("responses", {}, "`responses`"),
]


@pytest.mark.parametrize(("dialect", "more", "named"), REFUSED)
async def test_only_what_openai_takes_is_passed_on(dialect: Any, more: Json, named: str) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        await LiteLLMBackend("openai/x").call(dialect, {"model": "agent", **more})
    assert caught.value.status == 400


async def test_only_chat_streams_and_only_one_choice() -> None:
    backend = LiteLLMBackend("openai/x")
    with pytest.raises(RequestError, match="can't be streamed"):
        await anext(backend.stream("embeddings", {"model": "agent", "input": "x"}))
    with pytest.raises(RequestError, match="`n` choices of 'openai/x' can't be streamed"):
        await anext(backend.stream("chat", chat(n=2)))


@pytest.mark.skipif(litellm is not None, reason="LiteLLM is installed")
async def test_without_litellm_it_says_what_to_install() -> None:
    call: Callable[..., Any] = LiteLLMBackend("openai/x").call
    with pytest.raises(ConfigError, match=r"pip install agentlightning\[litellm\]"):
        await call("chat", chat())
