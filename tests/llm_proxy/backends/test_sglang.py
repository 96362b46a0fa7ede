"""The SGLang backend against a real endpoint that answers as SGLang does."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from agentlightning.llm_proxy.backends.sglang import SGLangBackend
from agentlightning.types import ChatReply, RequestError

from .endpoint import PROMPT, Endpoint, Json, sglang, usage, value, vllm_chat, vllm_completion

MESSAGES = [{"role": "user", "content": "two and two"}]
IDS = [343, 360, 983]
FIELDS = {"return_prompt_token_ids", "return_token_ids", "return_meta_info"}


def chat(**more: Any) -> Json:
    return {"model": "agent", "messages": MESSAGES, **more}


async def streamed(backend: SGLangBackend, body: Json) -> tuple[list[Json], ChatReply]:
    items = [item async for item in backend.stream("chat", body)]
    await backend.close()
    assert isinstance(items[-1], ChatReply)
    return [item for item in items if isinstance(item, dict)], items[-1]


def check_call(reply: ChatReply) -> None:
    (call,) = reply.calls
    assert (call.prompt_ids.tolist(), call.response_ids.tolist()) == (PROMPT, IDS)
    assert call.logprobs is not None
    assert call.logprobs.tolist() == [*map(value, IDS)]


async def test_tokens_are_read_under_their_names_and_kept_from_the_agent(endpoint: Endpoint) -> None:
    endpoint.answer = sglang
    backend = SGLangBackend(endpoint.url, model="served", weights_version=3)
    reply = await backend.call("chat", chat(temperature=0.5))
    await backend.close()
    assert {key for key in FIELDS | {"logprobs"} if endpoint.bodies[0][key] is True} == FIELDS | {"logprobs"}
    check_call(reply)  # SGLang's log-probs are those at the sampling temperature
    assert (reply.calls[0].temperature, reply.calls[0].weights_version) == (0.5, 3)
    (choice,) = reply.response["choices"]
    assert not {"prompt_token_ids", "response_token_ids", "meta_info"} & choice.keys()
    assert (choice["logprobs"], choice["matched_stop"]) == (None, 2)


async def test_what_the_agent_asked_for_it_gets(endpoint: Endpoint) -> None:
    endpoint.answer = sglang
    backend = SGLangBackend(endpoint.url)
    reply = await backend.call("chat", chat(logprobs=True, **dict.fromkeys(FIELDS, True)))
    await backend.close()
    (choice,) = reply.response["choices"]
    assert (choice["prompt_token_ids"], choice["response_token_ids"]) == (PROMPT, IDS)
    assert choice["meta_info"]["weight_version"] == "default"
    assert "token_ids" not in choice


@pytest.mark.parametrize(
    ("info", "version", "mixed"),
    [
        ({"weight_version": "7"}, 7, 0),
        ({"weight_version": "7", "weight_versions": ["7", "8"]}, 7, 1),
        ({"weight_version": "8", "weight_versions": [{"version": "8"}]}, 8, 0),
        ({"weight_version": "default"}, 3, 0),
        ({"weight_version": None}, 3, 0),
        (None, 3, 0),
    ],
)
async def test_the_answers_own_version_counts(endpoint: Endpoint, info: Any, version: int, mixed: int) -> None:
    def answer(body: Json) -> web.Response:
        whole = vllm_chat({**body, "return_token_ids": False})
        whole["choices"][0] |= {"prompt_token_ids": PROMPT, "response_token_ids": IDS, "meta_info": info}
        return web.json_response(whole)

    endpoint.answer = answer
    backend = SGLangBackend(endpoint.url, weights_version=3)
    (call,) = (await backend.call("chat", chat())).calls
    await backend.close()
    assert (call.weights_version, backend.mixed_versions) == (version, mixed)


async def test_completions_name_their_tokens_as_vllm_does(endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: web.json_response(vllm_completion(body))
    backend = SGLangBackend(endpoint.url)
    reply = await backend.call("completions", {"model": "agent", "prompt": "x"})
    await backend.close()
    assert endpoint.bodies[0]["logprobs"] == 1
    assert [call.response_ids.tolist() for call in reply.calls] == [[677, 128, 493]]


@pytest.mark.parametrize("with_usage", [False, True])
async def test_a_stream_is_replayed_from_the_whole_answer(endpoint: Endpoint, with_usage: bool) -> None:
    endpoint.answer = sglang
    options = {"stream_options": {"include_usage": with_usage}}
    chunks, reply = await streamed(SGLangBackend(endpoint.url), chat(stream=True, **options))
    (sent,) = endpoint.bodies
    assert not {"stream", "stream_options"} & sent.keys()
    check_call(reply)
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    deltas = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in deltas] == [None, "stop"]
    assert (deltas[0]["delta"]["role"], deltas[0]["delta"]["content"]) == ("assistant", "w343 w360 w983 ")
    assert not {"prompt_token_ids", "response_token_ids", "meta_info"} & (deltas[0].keys() | deltas[1].keys())
    assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == ([usage(len(PROMPT), 3)] if with_usage else [])
    assert reply.response["choices"][0]["message"]["content"] == "w343 w360 w983 "


async def test_true_streams_pass_without_tokens_and_later_calls_keep_theirs(endpoint: Endpoint) -> None:
    endpoint.answer = sglang
    backend = SGLangBackend(endpoint.url, exact_streams=False)
    chunks, reply = await streamed(backend, chat(stream=True))
    assert len(endpoint.bodies) == 4  # three fields were refused, one after the other
    assert reply.calls == []
    assert reply.response["usage"] == usage(len(PROMPT), 3)
    assert len([chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content")]) == 3
    check_call(await backend.call("chat", chat()))
    await streamed(backend, chat(stream=True))
    assert len(endpoint.bodies) == 6


async def test_a_call_that_the_server_aborted_is_no_answer(endpoint: Endpoint) -> None:
    def aborted(body: Json) -> web.Response:
        whole = vllm_chat({**body, "return_token_ids": False})
        whole["choices"][0]["finish_reason"] = "abort"
        return web.json_response(whole)

    endpoint.answer = aborted
    backend = SGLangBackend(endpoint.url)
    with pytest.raises(RequestError, match="gave the call up"):
        await streamed(backend, chat(stream=True))
    await backend.close()
