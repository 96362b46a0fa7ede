"""Any adapter on the training path: what it returns becomes an episode, or is refused with the mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from agentlightning.adapter import (
    LlmProxyTraceToTriplet,
    TracerTraceToTriplet,
    TraceToEpisodes,
    TraceToMessages,
    episode_adapter,
    episode_from_spans,
)
from agentlightning.semconv import GEN_AI_REQUEST_MODEL
from agentlightning.types import ConfigError, Episode, TokenCall, Triplet

from .spans import call_without_ids, llm_call, reward, span
from .test_graph import traces

SPANS = [llm_call(1, [1, 2], [3]), reward(2, 0.5), llm_call(3, [1, 2, 3, 4], [5]), reward(4, 1.0)]


def of_model(made: Any, model: str) -> Any:
    made.attributes[GEN_AI_REQUEST_MODEL] = model
    if made.token_call is not None:
        call = made.token_call
        made.token_call = TokenCall(model, call.prompt_ids, call.response_ids, call.logprobs, "stop")
    return made


def shape(episode: Episode) -> Any:
    """All that training reads of an episode."""
    return (
        [(turn.call.prompt_ids.tolist(), turn.call.response_ids.tolist(), turn.reward) for turn in episode.turns],
        [
            (t.token_ids.tolist(), t.sampled.tolist(), t.logprobs.tolist(), t.versions.tolist(), t.turns.tolist())
            for t in episode.trajectories
        ],
        episode.reward,
        [str(found) for found in episode.prefix_breaks],
        episode.missing_token_ids,
    )


def test_none_is_the_token_graph() -> None:
    assert shape(episode_adapter(None, "m")(SPANS, "ro-1")) == shape(episode_from_spans(SPANS, "ro-1"))


@pytest.mark.parametrize("adapter", [LlmProxyTraceToTriplet(), TracerTraceToTriplet(), TraceToEpisodes()])
def test_adapters_of_whole_traces_give_the_same_episode(adapter: Any) -> None:
    assert shape(episode_adapter(adapter, "m")(SPANS, "ro-1")) == shape(episode_from_spans(SPANS, "ro-1"))


@settings(max_examples=100, deadline=None)
@given(traces())
def test_triplets_carry_all_that_training_needs(calls: list[TokenCall]) -> None:
    calls = [call for call in calls if len(call.response_ids)]
    spans = [llm_call(n + 1, [], []) for n in range(len(calls))]
    for made, call in zip(spans, calls, strict=True):
        made.token_call = call
    through = episode_adapter(LlmProxyTraceToTriplet(), "m")(spans, "ro-1")
    assert shape(through) == shape(episode_from_spans(spans, "ro-1", "m"))


@settings(max_examples=100, deadline=None)
@given(traces())
def test_masks_are_true_on_the_policys_tokens_only(calls: list[TokenCall]) -> None:
    spans = [llm_call(n + 1, [], []) for n in range(len(calls))]
    for made, call in zip(spans, calls, strict=True):
        made.token_call = call
    episode = episode_adapter(None, "m")(spans, "ro-1")
    own = [call for call in calls if call.model == "m"]
    assert [turn.call.response_ids.tolist() for turn in episode.turns] == [call.response_ids.tolist() for call in own]
    trained = sum(int(trajectory.sampled.sum()) for trajectory in episode.trajectories)
    assert trained == sum(len(call.response_ids) for call in own)


def test_triplets_of_one_agent_are_trained_alone() -> None:
    planner = span(1, "agent", {"agent.name": "planner"}, start_time=0.0, end_time=10.0)
    calls = [llm_call(2, [1], [2], start_time=1.0, end_time=2.0), llm_call(3, [7], [8], start_time=20.0, end_time=21.0)]
    episode = episode_adapter(TracerTraceToTriplet(agent_match="planner"), "m")(
        [planner, *calls, reward(4, 1.0)], "ro-1"
    )
    assert [(turn.agent, turn.reward, turn.call.response_ids.tolist()) for turn in episode.turns] == [
        ("planner", 1.0, [2])
    ]
    assert (episode.reward, len(episode.trajectories)) == (1.0, 1)


def test_an_episode_names_the_agents_of_its_turns_and_the_rewards_by_dimension() -> None:
    planner = span(1, "agent", {"agent.name": "planner"}, start_time=0.0, end_time=10.0)
    calls = [llm_call(2, [1], [2], start_time=1.0, end_time=2.0), llm_call(3, [7], [8], start_time=20.0, end_time=21.0)]
    both = span(4, "agentlightning.reward", {})
    both.attributes |= {
        "agentlightning.reward.0.name": "planner",
        "agentlightning.reward.0.value": 0.25,
        "agentlightning.reward.1.name": "other",
        "agentlightning.reward.1.value": 2.0,
    }
    episode = episode_from_spans([planner, *calls, both], "ro-1")
    assert [turn.agent for turn in episode.turns] == ["planner", None]
    assert episode.rewards == {"planner": 0.25, "other": 2.0}
    assert episode.reward == 0.25


@pytest.mark.parametrize("adapter", [None, TraceToEpisodes(), LlmProxyTraceToTriplet()])
def test_only_the_policy_is_trained(adapter: Any) -> None:
    """A judge's calls through the same gateway: neither trained nor missed where it gives no ids."""
    judge = of_model(llm_call(2, [1, 2, 3], [9]), "judge")
    blind = of_model(call_without_ids(4), "judge")
    own = [of_model(llm_call(1, [1, 2], [3]), "m"), of_model(llm_call(3, [1, 2, 3, 9], [5]), "m")]
    episode = episode_adapter(adapter, "m")([*own, judge, blind, reward(5, 1.0)], "ro-1")
    assert [turn.call.response_ids.tolist() for turn in episode.turns] == [[3], [5]]
    assert [t.token_ids.tolist() for t in episode.trajectories] == [[1, 2, 3, 9, 5]]
    assert episode.trajectories[0].sampled.tolist() == [False, False, True, False, True]
    assert episode.missing_token_ids == 0
    torn = episode_adapter(adapter, "m")([*own, of_model(call_without_ids(4), "m")], "ro-1")
    assert torn.missing_token_ids == 1


def test_a_function_may_make_the_episode() -> None:
    def last_only(spans: Any) -> Episode:
        made = episode_from_spans(spans, spans[0].rollout_id)
        return Episode(made.rollout_id, made.turns[-1:], [], 7.0)

    adapt = episode_adapter(last_only, "m")
    assert adapt(SPANS, "ro-1").reward == 7.0
    assert adapt([], "ro-1").turns == [], "not asked about rollouts in which nothing happened"


def test_a_subclass_changes_what_training_sees() -> None:
    class Halved(TraceToEpisodes):
        def episode(self, spans: Any, rollout_id: str) -> Episode:
            made = super().episode(spans, rollout_id)
            return Episode(rollout_id, made.turns, made.trajectories, (made.reward or 0.0) / 2)

    assert episode_adapter(Halved(), "m")(SPANS, "ro-1").reward == 0.5


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (7, "`adapter` is a int; give an adapter, or a function"),
        (lambda spans: "text", r"returned a str; training needs an `Episode` or a list of `Triplet`s"),
        (TraceToMessages(), r"\(TraceToMessages\) returned a list"),
        (lambda spans: [Triplet(prompt="hi", response="yo")], r"triplet's `response` has no list `token_ids`: 'yo'"),
    ],
)
def test_what_training_cannot_use_is_refused(adapter: Any, message: str) -> None:
    call = llm_call(1, [1], [2])
    call.attributes["gen_ai.output.messages"] = '[{"role": "assistant", "content": "x"}]'
    with pytest.raises(ConfigError, match=message):
        episode_adapter(adapter, "m")([call], "ro-1")


def test_arrays_of_an_episode_are_of_the_callers_types() -> None:
    episode = episode_adapter(LlmProxyTraceToTriplet(), "m")(SPANS, "ro-1")
    assert episode.turns[0].call.logprobs is not None
    assert episode.turns[0].call.logprobs.dtype == np.float32
    assert episode.turns[0].call.prompt_ids.dtype == np.int32
