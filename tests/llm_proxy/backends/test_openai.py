"""The HTTP backend against a real endpoint that answers as vLLM does, without streaming."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from agentlightning.llm_proxy import HttpBackend, UpstreamError
from agentlightning.types import RequestError, TokenCall

from .endpoint import PROMPT, Endpoint, Json, refusal, span, value, vllm, vllm_chat

MESSAGES = [{"role": "user", "content": "two and two"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
ASKED: Json = {"temperature": 1.0, "return_token_ids": True, "logprobs": True, "return_weight_versions": True}


@pytest.fixture
async def backend(endpoint: Endpoint) -> AsyncIterator[HttpBackend]:
    endpoint.answer = vllm
    made = HttpBackend(endpoint.url, "upstream-key", model="served", weights_version=4)
    yield made
    await made.close()


def chat(**more: Any) -> Json:
    return {"model": "agent", "messages": MESSAGES, **more}


def plain(ids: Any = ((343, 360, 983),)) -> Json:
    """What vLLM answers to somebody who asks for no tokens."""
    answer = vllm_chat({"model": "served"}, ids)
    for choice in answer["choices"]:
        del choice["token_ids"]
    del answer["prompt_token_ids"]
    return answer


async def test_tokens_are_asked_for_read_and_kept_from_the_agent(backend: HttpBackend, endpoint: Endpoint) -> None:
    ids = [[343, 360], [983]]
    endpoint.answer = lambda body: web.json_response(vllm_chat(body, ids, [span("7", 0, 2)]))
    body = chat(n=2)
    reply = await backend.call("chat", body)
    assert body == chat(n=2)
    assert endpoint.bodies == [chat(n=2) | {"model": "served"} | ASKED]
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.headers[0]["authorization"] == "Bearer upstream-key"
    assert reply.response == plain(ids)
    assert [call.prompt_ids.tolist() for call in reply.calls] == [PROMPT] * 2
    assert [call.response_ids.tolist() for call in reply.calls] == ids
    assert [logprobs(call) for call in reply.calls] == [[*map(value, own)] for own in ids]
    assert {(call.model, call.finish_reason, call.temperature) for call in reply.calls} == {("agent", "stop", 1.0)}
    assert [call.weights_version for call in reply.calls] == [7, 7]


def logprobs(call: TokenCall) -> list[float] | None:
    return None if call.logprobs is None else call.logprobs.tolist()


async def test_what_the_agent_asked_for_it_gets(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: web.json_response(vllm_chat(body, versions=[span("7", 0, 3)]))
    asked = {"logprobs": True, "return_token_ids": True, "return_weight_versions": True, "top_logprobs": 2}
    response = (await backend.call("chat", chat(**asked))).response
    assert endpoint.bodies[0]["top_logprobs"] == 2
    assert response["prompt_token_ids"] == PROMPT
    (choice,) = response["choices"]
    assert (choice["token_ids"], choice["weight_versions"]) == ([343, 360, 983], [span("7", 0, 3)])
    assert [token["logprob"] for token in choice["logprobs"]["content"]] == [*map(value, [343, 360, 983])]


async def test_images_and_unknown_fields_pass_untouched(backend: HttpBackend, endpoint: Endpoint) -> None:
    more = {"messages": IMAGE, "tools": [{"type": "function"}], "top_k": 5, "chat_template_kwargs": {"x": [1]}}
    await backend.call("chat", chat(**more))
    assert {key: endpoint.bodies[0][key] for key in more} == more


async def test_completions_give_their_tokens_per_choice(backend: HttpBackend, endpoint: Endpoint) -> None:
    reply = await backend.call("completions", {"model": "agent", "prompt": [5, 6, 7]})
    assert endpoint.paths == ["/v1/completions"]
    assert endpoint.bodies == [{"model": "served", "prompt": [5, 6, 7], **ASKED, "logprobs": 1}]
    (choice,) = reply.response["choices"]
    assert (choice["text"], choice["logprobs"]) == ("w677 w128 w493 ", None)
    assert not {"token_ids", "prompt_token_ids"} & choice.keys()
    (call,) = reply.calls
    assert (call.prompt_ids.tolist(), call.response_ids.tolist()) == ([5, 6, 7], [677, 128, 493])
    assert logprobs(call) == [*map(value, [677, 128, 493])]
    assert (call.weights_version, call.finish_reason) == (4, "length")


async def test_no_logprobs_but_those_of_the_sampled_tokens_are_an_agents_wish_too(backend: HttpBackend) -> None:
    reply = await backend.call("completions", {"model": "agent", "prompt": "x", "logprobs": 0})
    assert reply.calls[0].logprobs is None  # this endpoint gives none for 0


@pytest.mark.parametrize(
    ("tempered", "sent", "temperature", "kept"),
    [
        (False, 1.0, 1.0, True),
        (False, 0.7, 0.7, False),
        (True, 0.7, 0.7, True),
        (False, None, 1.0, True),
        (False, 0, 1.0, True),
        (True, 0.0, 1.0, True),
    ],
)
async def test_logprobs_of_another_temperature_are_not_taken_for_those_of_the_policy(
    endpoint: Endpoint, tempered: bool, sent: float | None, temperature: float, kept: bool
) -> None:
    endpoint.answer = vllm
    backend = HttpBackend(endpoint.url, tempered_logprobs=tempered)
    (call,) = (await backend.call("chat", chat(temperature=sent))).calls
    await backend.close()
    assert (call.temperature, call.logprobs is not None) == (temperature, kept)
    assert endpoint.bodies[0]["temperature"] == (1.0 if sent is None else sent)


async def test_an_endpoint_without_token_ids_gives_no_calls(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: web.json_response(plain())
    reply = await backend.call("chat", chat())
    assert (reply.calls, reply.response) == ([], plain())


async def test_the_version_of_the_weights_is_asked_when_a_call_begins(endpoint: Endpoint) -> None:
    versions = iter([5, 6, 9])

    def answer(body: Json) -> web.Response:
        next(versions)  # an update while the call is running
        return web.json_response(vllm_chat(body))

    endpoint.answer = answer
    backend = HttpBackend(endpoint.url, weights_version=lambda: next(versions))
    (call,) = (await backend.call("chat", chat())).calls
    await backend.close()
    assert call.weights_version == 5


async def test_answers_of_several_versions_count_as_the_lowest(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: web.json_response(vllm_chat(body, versions=[span("8", 0, 1), span("9", 1, 3)]))
    for seen in (1, 2):
        (call,) = (await backend.call("chat", chat())).calls
        assert (call.weights_version, backend.mixed_versions) == (8, seen)


# -- what an endpoint refuses ---------------------------------------------------------------------------------------


def refusing(*fields: str, status: int = 400, param: bool = False) -> Callable[[Json], Any]:
    def answer(body: Json) -> Any:
        for field in fields:
            if field in body:
                told = {"param": field} if param else {}
                return refusal(f"Unrecognized request argument supplied: {field}", status, **told)
        return vllm(body)

    return answer


@pytest.mark.parametrize(("status", "param"), [(400, False), (422, False), (400, True)])
async def test_fields_that_an_endpoint_refuses_are_learnt(
    backend: HttpBackend, endpoint: Endpoint, status: int, param: bool
) -> None:
    endpoint.answer = refusing(*ASKED, status=status, param=param)
    assert (await backend.call("chat", chat())).calls == []
    assert [sorted(ASKED.keys() & body.keys()) for body in endpoint.bodies] == [
        sorted([*ASKED][at:]) for at in range(len(ASKED) + 1)
    ]
    await backend.call("chat", chat())
    assert endpoint.bodies[-1] == chat(model="served")
    assert len(endpoint.bodies) == len(ASKED) + 2
    with pytest.raises(UpstreamError, match="return_token_ids"):
        await backend.call("chat", chat(return_token_ids=True))
    with pytest.raises(UpstreamError, match="temperature"):
        await backend.call("chat", chat(temperature=0.5))


async def test_an_agents_bad_request_does_not_cost_the_tokens(backend: HttpBackend, endpoint: Endpoint) -> None:
    def strict(body: Json) -> Any:
        # As pydantic shows what is wrong: with the whole request, our fields included.
        return refusal(f"tools must not be empty; input: {body}") if body.get("tools") == [] else vllm(body)

    endpoint.answer = strict
    with pytest.raises(UpstreamError, match="tools must not be empty"):
        await backend.call("chat", chat(tools=[]))
    assert len((await backend.call("chat", chat())).calls) == 1


async def test_other_refusals_are_not_asked_about_again(backend: HttpBackend, endpoint: Endpoint) -> None:
    for status, message in ((400, "prompt too long"), (500, "return_token_ids"), (401, "logprobs"), (503, "paused")):
        endpoint.bodies.clear()
        endpoint.answer = lambda _, s=status, m=message: refusal(m, s)
        with pytest.raises(UpstreamError, match=message) as caught:
            await backend.call("chat", chat())
        assert (caught.value.status, len(endpoint.bodies)) == (status, 1)


async def test_a_reasoning_model_gets_its_own_name_for_the_limit(backend: HttpBackend, endpoint: Endpoint) -> None:
    def reasoning(body: Json) -> Any:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return refusal(f"{message} Use 'max_completion_tokens' instead.", param="max_tokens")
        return refusing("temperature", "logprobs")(body)

    endpoint.answer = reasoning
    for _ in range(2):
        await backend.call("chat", chat(max_tokens=9))
        last = endpoint.bodies[-1]
        assert (last["max_completion_tokens"], {"max_tokens", "temperature", "logprobs"} & last.keys()) == (9, set())
    assert len(endpoint.bodies) == 5


async def test_what_is_refused_in_streams_is_still_asked_for_without(backend: HttpBackend, endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: refusing("return_token_ids")(body) if body.get("stream") else vllm(body)
    items = [item async for item in backend.stream("chat", chat(stream=True))]
    assert items[-1].calls == []  # type: ignore[union-attr]
    assert len((await backend.call("chat", chat())).calls) == 1


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda body: web.Response(text="not json"), "invalid JSON"),
        (lambda body: web.Response(body=b'{"choices": "\xc3'), "invalid JSON"),
        (lambda body: web.json_response([]), "no JSON object"),
        (lambda body: web.json_response({"choices": 3}), "no list of `choices`"),
        (lambda body: web.json_response({"choices": [3]}), "no list of `choices`"),
        (lambda body: web.json_response(vllm_chat(body) | {"prompt_token_ids": "ab"}), "malformed tokens"),
        (lambda body: web.json_response(vllm_chat(body) | {"usage": {"completion_tokens": 2}}), "3 token ids but"),
    ],
)
async def test_nonsense_is_told_as_such(
    backend: HttpBackend, endpoint: Endpoint, answer: Callable[[Json], web.Response], expected: str
) -> None:
    endpoint.answer = answer
    with pytest.raises(RequestError, match=expected) as caught:
        await backend.call("chat", chat())
    assert caught.value.status == 502


async def test_a_call_that_the_server_aborted_is_no_answer(backend: HttpBackend, endpoint: Endpoint) -> None:
    def aborted(body: Json) -> web.Response:
        answer = vllm_chat(body, [[343]])
        answer["choices"][0]["finish_reason"] = "abort"
        return web.json_response(answer)

    endpoint.answer = aborted
    with pytest.raises(RequestError, match="gave the call up") as caught:
        await backend.call("chat", chat())
    assert (caught.value.status, caught.value.code) == (503, "aborted")


# -- dialects that pass through -------------------------------------------------------------------------------------


async def test_embeddings_pass_untouched(backend: HttpBackend, endpoint: Endpoint) -> None:
    answer = {"object": "list", "data": [{"embedding": [0.5]}], "model": "served", "usage": {"prompt_tokens": 1}}
    endpoint.answer = lambda _: web.json_response(answer)
    reply = await backend.call("embeddings", {"model": "agent", "input": "x"})
    assert (reply.response, reply.calls) == (answer, [])
    assert (endpoint.paths, endpoint.bodies) == (["/v1/embeddings"], [{"model": "served", "input": "x"}])
    with pytest.raises(RequestError, match="can't be streamed"):
        await anext(backend.stream("embeddings", {"model": "agent", "input": "x", "stream": True}))


async def test_responses_and_messages_pass_untouched_where_the_endpoint_has_them(endpoint: Endpoint) -> None:
    backend = HttpBackend(endpoint.url, speaks=["responses", "messages"])
    endpoint.answer = lambda _: web.json_response({"object": "response"})
    for dialect, path in (("responses", "/v1/responses"), ("messages", "/v1/messages")):
        body = {"model": "agent", "input": "x", "temperature": None}
        reply = await backend.call(dialect, body)  # type: ignore[arg-type]
        assert (reply.response, reply.calls) == ({"object": "response"}, [])
        assert (endpoint.paths[-1], endpoint.bodies[-1]) == (path, body)
    await backend.close()


async def test_a_dialect_that_the_endpoint_lacks_is_refused(backend: HttpBackend, endpoint: Endpoint) -> None:
    with pytest.raises(RequestError, match="not set up for `responses`"):
        await backend.call("responses", {"model": "agent"})
    with pytest.raises(RequestError, match="not set up for `messages`"):
        await anext(backend.stream("messages", {"model": "agent"}))
    assert endpoint.bodies == []


def test_openais_own_endpoint_has_responses() -> None:
    assert HttpBackend("https://api.openai.com/v1").speaks == {"chat", "completions", "embeddings", "responses"}
    assert HttpBackend("http://api.openai.com.example/v1").speaks == {"chat", "completions", "embeddings"}
