"""The HTTP backend against our own engine's server: the tokens are the engine's, streamed or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import numpy as np
import pytest

from agentlightning.inference.server import create_app
from agentlightning.inference.service import ChatService
from agentlightning.llm_proxy import HttpBackend, UpstreamError
from agentlightning.types import ChatReply
from agentlightning.utils.server_thread import ThreadedServer

Json = dict[str, Any]
CHAT: Json = {"messages": [{"role": "user", "content": "what is 3 plus 4 ?"}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture
async def backend(service: ChatService) -> AsyncIterator[HttpBackend]:
    server = ThreadedServer("127.0.0.1", None, lambda: create_app(service), name="engine-server")
    await server.start()
    made = HttpBackend(f"http://127.0.0.1:{server.port}/v1", tempered_logprobs=True)
    yield made
    await made.close()
    await server.stop()


async def streamed(backend: Any, dialect: Any, body: Json) -> tuple[list[Json], ChatReply]:
    items = [item async for item in backend.stream(dialect, body | {"stream": True})]
    assert isinstance(items[-1], ChatReply)
    return [item for item in items if isinstance(item, dict)], items[-1]


def told(reply: ChatReply, dialect: str) -> list[Any]:
    field = "message" if dialect == "chat" else "text"
    return [(choice[field], choice["finish_reason"]) for choice in reply.response["choices"]]


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("chat", {**CHAT, "n": 2, "temperature": 0.8}),
        ("chat", {**CHAT, "tools": TOOLS}),
        ("chat", {**CHAT, "temperature": 0}),
        ("chat", {**CHAT, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}),
        ("completions", {"prompt": "what is 3", "n": 2, "temperature": 1.3}),
        ("completions", {"prompt": [[5, 6, 7], [8, 9]]}),
    ],
)
async def test_the_tokens_are_the_engines(
    service: ChatService, backend: HttpBackend, dialect: Literal["chat", "completions"], more: Json
) -> None:
    body: Json = {"model": "tiny", "max_tokens": 12, "seed": 5, **more}
    here = await service.call(dialect, body)
    whole = await backend.call(dialect, body)
    chunks, live = await streamed(backend, dialect, body)
    assert len(here.calls) == len(here.response["choices"])
    for reply in (whole, live):
        assert told(reply, dialect) == told(here, dialect)
        assert reply.response["usage"] == here.response["usage"]
        assert reply.response["object"] == here.response["object"]
        for call, own, (_, finish) in zip(reply.calls, here.calls, told(here, dialect), strict=True):
            assert call.prompt_ids.tolist() == own.prompt_ids.tolist()
            assert call.response_ids.tolist() == own.response_ids.tolist()
            assert (call.temperature, call.finish_reason) == (own.temperature, finish)
            assert call.logprobs is not None
            assert own.logprobs is not None
            np.testing.assert_allclose(call.logprobs, own.logprobs, atol=1e-5)
    asked = bool(body.get("return_token_ids"))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert any("token_ids" in choice for choice in choices) == asked
    assert any("prompt_token_ids" in chunk for chunk in chunks) == asked
    assert not any("usage" in chunk for chunk in chunks)


async def test_its_refusals_pass_through(backend: HttpBackend) -> None:
    body = {"model": "tiny", **CHAT, "temperature": -1}
    with pytest.raises(UpstreamError, match="temperature") as caught:
        await backend.call("chat", body)
    assert caught.value.status == 400
    with pytest.raises(UpstreamError, match="temperature"):
        await anext(backend.stream("chat", body | {"stream": True}))
