"""Triplets: one for each recorded call, rewards matched backwards."""

from __future__ import annotations

import json
import re

import pytest

from agentlightning.adapter import LlmProxyTraceToTriplet, TraceAdapter, TracerTraceToTriplet
from agentlightning.semconv import LLM_CALL_CHOICE, LLM_CALL_NUMBER, LLM_CALL_SPAN
from agentlightning.types import Span

from .spans import call_without_ids, failed_call, llm_call, reward, span


@pytest.mark.parametrize("adapter", [LlmProxyTraceToTriplet(), TracerTraceToTriplet()])
def test_each_call_is_a_triplet_with_its_tokens(adapter: TraceAdapter[list]) -> None:
    first, second = adapter([llm_call(1, [1, 2], [3]), llm_call(2, [1, 2, 3], [4, 5], logprobs=False), reward(3, 1.0)])
    assert first.prompt == {"token_ids": [1, 2], "raw_content": [], "image_urls": []}
    assert first.input == first.prompt
    assert first.response == {"token_ids": [3], "raw_content": [], "logprobs": [-0.5]}
    assert first.reward is None
    assert first.metadata == {
        "response_id": "chat-1",
        "agent_name": "*",
        "request": None,
        "response": {"id": "chat-1"},
        "model": "m",
        "finish_reason": "stop",
        "weights_version": 0,
        "temperature": 1.0,
    }
    assert second.response == {"token_ids": [4, 5], "raw_content": []}
    assert second.reward == 1.0
    assert second.model_dump_json()


def test_a_reward_goes_to_the_latest_call_that_has_none() -> None:
    spans = [
        reward(1, 9.0),
        llm_call(2, [1], [2]),
        llm_call(3, [1, 2], [3]),
        reward(4, 0.1),
        reward(5, 0.2),
        reward(6, 0.3),
        llm_call(7, [1, 2, 3], [4]),
        reward(8, 0.4),
    ]
    assert [t.reward for t in LlmProxyTraceToTriplet().adapt(spans[::-1])] == [0.2, 0.1, 0.4]


def test_calls_without_tokens_are_left_out() -> None:
    spans = [failed_call(1), llm_call(2, [1], [2]), call_without_ids(3), reward(4, 1.0)]
    assert [t.reward for t in LlmProxyTraceToTriplet()(spans)] == [1.0]


def test_the_tracer_adapter_keeps_them_unless_told_otherwise() -> None:
    spans = [llm_call(1, [1], [2]), call_without_ids(2), reward(3, 1.0)]
    assert [(t.response["token_ids"], t.reward) for t in TracerTraceToTriplet()(spans)] == [([2], None), ([], 1.0)]
    skipping = TracerTraceToTriplet(_skip_empty_token_spans=True)
    assert [(t.response["token_ids"], t.reward) for t in skipping(spans)] == [([2], 1.0)]


def test_no_spans_no_triplets() -> None:
    assert LlmProxyTraceToTriplet()([]) == TracerTraceToTriplet()([]) == []


def test_messages_and_images_are_the_raw_content() -> None:
    call = llm_call(1, [1], [2])
    image = {"type": "image_url", "image_url": {"url": "http://a/b.png"}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}]
    call.attributes["gen_ai.input.messages"] = json.dumps(asked)
    call.attributes["gen_ai.output.messages"] = json.dumps([{"role": "assistant", "content": "a cat"}])
    for adapter in (LlmProxyTraceToTriplet(), TracerTraceToTriplet()):
        (triplet,) = adapter([call])
        assert triplet.prompt == {"token_ids": [1], "raw_content": asked, "image_urls": ["http://a/b.png"]}
        assert triplet.response["raw_content"] == [{"role": "assistant", "content": "a cat"}]


def test_flattened_attributes_of_other_instrumentations_are_read() -> None:
    """What clients' instrumentations wrote for Agent-Lightning 0.3."""
    attributes = {
        "gen_ai.response.id": "c1",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "hi",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "yo",
        "prompt_token_ids": [1, 2],
        "response_token_ids": [3],
    }
    (triplet,) = TracerTraceToTriplet()([span(1, LLM_CALL_SPAN, attributes)])
    assert triplet.prompt == {"token_ids": [1, 2], "raw_content": [{"role": "user", "content": "hi"}], "image_urls": []}
    assert triplet.response == {"token_ids": [3], "raw_content": [{"role": "assistant", "content": "yo"}]}


@pytest.mark.parametrize("as_text", [True, False])
def test_token_ids_of_a_litellm_proxy_are_read(as_text: bool) -> None:
    choices = [{"token_ids": [3, 4], "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}}]
    attributes = {
        "llm.hosted_vllm.prompt_token_ids": str([1, 2]) if as_text else [1, 2],
        "llm.hosted_vllm.choices": str(choices),
        "llm.hosted_vllm.id": "c1",
    }
    spans = [span(1, "raw_gen_ai_request", attributes), span(2, "litellm_request", attributes), reward(3, 1.0)]
    (triplet,) = LlmProxyTraceToTriplet()(spans)
    assert triplet.prompt["token_ids"] == [1, 2]
    assert (triplet.response["token_ids"], triplet.response["logprobs"]) == ([3, 4], [-0.5, -0.25])
    assert (triplet.reward, triplet.metadata["response_id"]) == (1.0, "c1")


@pytest.mark.parametrize("nonsense", ["[1, 'x']", "[-1]", "no list", "[" * 300, {"a": 1}, "{}"])
def test_token_ids_that_are_none_are_no_tokens(nonsense: object) -> None:
    broken = span(1, LLM_CALL_SPAN, {})
    broken.attributes |= {"prompt_token_ids": nonsense, "response_token_ids": [1]}
    assert LlmProxyTraceToTriplet()([broken]) == []


def test_a_call_that_was_recorded_twice_is_one_and_its_choices_are_several() -> None:
    twin = span(1, LLM_CALL_SPAN, {"gen_ai.response.id": "chat-2"})
    first, second = llm_call(2, [1], [2]), llm_call(3, [1], [3])
    second.attributes |= {"gen_ai.response.id": "chat-2", LLM_CALL_CHOICE: 1}
    for adapter in (LlmProxyTraceToTriplet(), TracerTraceToTriplet()):
        assert [t.response["token_ids"] for t in adapter([twin, first, second])] == [[2], [3]]


def test_two_calls_of_the_gateway_are_two_though_their_answers_have_one_id() -> None:
    """A cache before the model gives the id of the first answer again; a client may have recorded both, too."""
    calls: list[Span] = []
    for number in (2, 4):
        call = llm_call(number, [number], [9])
        call.attributes |= {"gen_ai.response.id": "chatcmpl-7", LLM_CALL_NUMBER: number // 2}
        calls += [span(number - 1, LLM_CALL_SPAN, {"gen_ai.response.id": "chatcmpl-7"}), call]
    for adapter in (LlmProxyTraceToTriplet(), TracerTraceToTriplet()):
        assert [t.prompt["token_ids"] for t in adapter(calls)] == [[2], [4]]


@pytest.mark.parametrize("seen_as", ["chatcmpl-7", "msg_7", "resp_7"])
def test_a_client_of_another_interface_saw_the_same_answer(seen_as: str) -> None:
    call = llm_call(2, [1], [2])
    call.attributes["gen_ai.response.id"] = "chatcmpl-7"
    twin = span(1, LLM_CALL_SPAN, {"gen_ai.response.id": seen_as})
    for adapter in (LlmProxyTraceToTriplet(), TracerTraceToTriplet()):
        assert [(t.response["token_ids"], t.metadata["response_id"]) for t in adapter([twin, call])] == [
            ([2], "chatcmpl-7")
        ]


def test_the_tracer_adapter_finds_calls_by_name() -> None:
    spans = [llm_call(1, [1], [2], name="my.chat"), llm_call(2, [3], [4])]
    assert [t.prompt["token_ids"] for t in TracerTraceToTriplet()(spans)] == [[3]]
    assert [t.prompt["token_ids"] for t in TracerTraceToTriplet(llm_call_match=r"^my\.")(spans)] == [[1]]
    with pytest.raises(re.error):
        TracerTraceToTriplet(llm_call_match="(")
