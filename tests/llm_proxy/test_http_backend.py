"""The HTTP backend against a real endpoint that answers as vLLM does."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from aiohttp import web

from agentlightning.llm_proxy import HttpBackend, LLMProxy, UpstreamError
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, RequestError

from .conftest import QUESTION, Upstream, client_for, completion


@pytest.fixture
async def backend(upstream: Upstream) -> AsyncIterator[HttpBackend]:  # type: ignore[override]
    made = HttpBackend(upstream.url, "upstream-key", model="served")
    yield made
    await made.close()


def request(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": QUESTION, **more}


async def test_tokens_are_asked_for_read_and_kept_from_the_agent(backend: HttpBackend, upstream: Upstream) -> None:
    body = request(n=2)
    reply = await backend.chat(body)
    assert body == request(n=2)
    assert upstream.bodies == [
        request(n=2) | {"model": "served", "temperature": 1.0, "return_token_ids": True, "logprobs": True}
    ]
    assert upstream.headers[0]["authorization"] == "Bearer upstream-key"
    assert reply.response == completion("served", ["text 0", "text 1"])
    assert [call.prompt_ids.tolist() for call in reply.calls] == [[5, 6, 7]] * 2
    assert [call.response_ids.tolist() for call in reply.calls] == [[20, 2], [21, 2]]
    assert [call.logprobs.tolist() for call in reply.calls if call.logprobs is not None] == [[-1.5, -0.25]] * 2
    assert {(call.model, call.finish_reason, call.temperature) for call in reply.calls} == {("tiny", "stop", 1.0)}


async def test_what_the_agent_asked_for_it_gets(backend: HttpBackend) -> None:
    response = (await backend.chat(request(logprobs=True, return_token_ids=True))).response
    assert response["prompt_token_ids"] == [5, 6, 7]
    assert response["choices"][0]["token_ids"] == [20, 2]
    assert [token["logprob"] for token in response["choices"][0]["logprobs"]["content"]] == [-1.5, -0.25]


async def test_logprobs_of_another_temperature_are_not_taken_for_those_of_the_policy(upstream: Upstream) -> None:
    for tempered, temperature, kept in [(False, 1.0, True), (False, 0.7, False), (True, 0.7, True)]:
        backend = HttpBackend(upstream.url, tempered_logprobs=tempered)
        (call,) = (await backend.chat(request(temperature=temperature))).calls
        await backend.close()
        assert (call.temperature, call.logprobs is not None) == (temperature, kept)


async def test_an_endpoint_without_token_ids_gives_no_calls(backend: HttpBackend, upstream: Upstream) -> None:
    upstream.answer = upstream.plain
    reply = await backend.chat(request())
    assert reply.calls == []
    assert reply.response == completion("served", ["plain"])


async def test_an_endpoint_that_refuses_our_fields_is_asked_without_them(
    backend: HttpBackend, upstream: Upstream
) -> None:
    def strict(body: dict[str, Any]) -> web.Response:
        if "return_token_ids" in body:
            return web.json_response({"error": {"message": "unknown field return_token_ids"}}, status=400)
        return upstream.plain(body)

    upstream.answer = strict
    assert (await backend.chat(request())).calls == []
    assert ["return_token_ids" in body for body in upstream.bodies] == [True, False]
    await backend.chat(request())
    assert ["return_token_ids" in body for body in upstream.bodies] == [True, False, False]
    with pytest.raises(UpstreamError, match="unknown field"):
        await backend.chat(request(return_token_ids=True))


REFUSAL = {"error": {"message": "prompt too long", "type": "BadRequestError", "param": None, "code": 400}}


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (lambda: web.json_response(REFUSAL, status=400), 400, REFUSAL),
        (lambda: web.json_response({"detail": "slow down"}, status=429), 429, {"detail": "slow down"}),
        (lambda: web.Response(text="oops", status=503), 503, None),
        (lambda: web.Response(status=302, headers={"location": "http://127.0.0.1:1/"}), 502, None),
    ],
)
async def test_refusals_pass_through(
    backend: HttpBackend, upstream: Upstream, answer: Any, status: int, body: Any
) -> None:
    upstream.answer = lambda _: answer()
    with pytest.raises(UpstreamError, match="answered") as caught:
        await backend.chat(request())
    assert caught.value.status == status
    if body is not None:
        assert caught.value.to_body() == body
    else:
        assert upstream.url in str(caught.value.to_body())


def _broken(**changes: Any) -> web.Response:
    answer = completion("served", ["x"]) | {"prompt_token_ids": [5, 6]}
    answer["choices"][0] |= {"token_ids": [7, 2]} | changes
    return web.json_response(answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda: web.Response(text="not json"), "invalid JSON"),
        (lambda: web.Response(body=b'{"choices": "\xc3'), "invalid JSON"),
        (lambda: web.json_response([]), "no list of `choices`"),
        (lambda: web.json_response({"choices": [3]}), "no list of `choices`"),
        (lambda: _broken(token_ids=[7, 2.5]), "malformed tokens"),
        (lambda: _broken(token_ids=[2**40]), "malformed tokens"),
        (lambda: _broken(token_ids="ab"), "malformed tokens"),
        (lambda: _broken(logprobs={"content": [{"logprob": -1.0}]}), "2 token ids but 1 log-probs"),
        (lambda: _broken(logprobs={"content": [{"x": 1}, {"x": 1}]}), "malformed tokens"),
    ],
)
async def test_nonsense_is_told_as_such(backend: HttpBackend, upstream: Upstream, answer: Any, expected: str) -> None:
    upstream.answer = lambda _: answer()
    with pytest.raises(RequestError, match=expected) as caught:
        await backend.chat(request())
    assert caught.value.status == 502


async def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
        backend = HttpBackend(url)
        with pytest.raises(RequestError, match=f"{url} can't be reached") as caught:
            await backend.chat(request())
        await backend.close()
    assert caught.value.status == 502


async def test_an_endpoint_that_hangs_is_given_up() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()  # connects, and nobody ever answers
        backend = HttpBackend(f"http://127.0.0.1:{sock.getsockname()[1]}/v1", timeout=0.2)
        with pytest.raises(RequestError, match="did not answer in time") as caught:
            await backend.chat(request())
        await backend.close()
    assert caught.value.status == 504


async def test_through_the_gateway_with_a_model_list(
    upstream: Upstream, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    entry = {"model_name": "main", "litellm_params": {"model": "hosted_vllm/org/served", "api_base": upstream.url}}
    proxy = LLMProxy(model_list=[entry], store=store)
    await proxy.start()
    try:
        async with client_for(proxy, rollout) as client:
            answer = await client.chat.completions.create(model="main", messages=QUESTION)
            assert answer.choices[0].message.content == "text 0"
            assert answer.choices[0].logprobs is None
            upstream.answer = lambda _: web.json_response(REFUSAL, status=400)
            with pytest.raises(openai.BadRequestError, match="prompt too long"):
                await client.chat.completions.create(model="main", messages=QUESTION)
    finally:
        await proxy.stop()
    assert [body["model"] for body in upstream.bodies] == ["org/served"] * 2
    assert "authorization" not in upstream.headers[0]
    recorded, failed = await store.query_spans(rollout.rollout_id)
    assert recorded.token_call is not None
    assert recorded.token_call.response_ids.tolist() == [20, 2]
    assert (failed.status.status_code, "prompt too long" in (failed.status.description or "")) == ("ERROR", True)
