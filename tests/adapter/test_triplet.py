"""Triplets: one for each recorded call, rewards matched backwards."""

from __future__ import annotations

import re

import pytest

from agentlightning.adapter import LlmProxyTraceToTriplet, TraceAdapter, TracerTraceToTriplet

from .spans import call_without_ids, failed_call, llm_call, reward


@pytest.mark.parametrize("adapter", [LlmProxyTraceToTriplet(), TracerTraceToTriplet()])
def test_each_call_is_a_triplet_with_its_tokens(adapter: TraceAdapter[list]) -> None:
    first, second = adapter([llm_call(1, [1, 2], [3]), llm_call(2, [1, 2, 3], [4, 5], logprobs=False), reward(3, 1.0)])
    assert first.prompt == {"token_ids": [1, 2]}
    assert first.input == first.prompt
    assert first.response == {"token_ids": [3], "logprobs": [-0.5]}
    assert first.reward is None
    assert first.metadata == {"response_id": "chat-1", "model": "m"}
    assert second.response == {"token_ids": [4, 5]}
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


def test_the_tracer_adapter_finds_calls_by_name() -> None:
    spans = [llm_call(1, [1], [2], name="my.chat"), llm_call(2, [3], [4])]
    assert [t.prompt["token_ids"] for t in TracerTraceToTriplet()(spans)] == [[3]]
    assert [t.prompt["token_ids"] for t in TracerTraceToTriplet(llm_call_match=r"^my\.")(spans)] == [[1]]
    with pytest.raises(re.error):
        TracerTraceToTriplet(llm_call_match="(")
