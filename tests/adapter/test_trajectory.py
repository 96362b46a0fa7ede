"""Episodes from spans: turns, rewards, failed calls, calls without tokens."""

from __future__ import annotations

import numpy as np
import pytest

from agentlightning.adapter import TraceToEpisodes, episode_from_spans

from .spans import call_without_ids, failed_call, llm_call, reward, span


def test_turns_trajectories_and_rewards() -> None:
    spans = [
        llm_call(1, [1, 2], [3]),
        reward(2, 0.25),
        llm_call(3, [1, 2, 3, 4], [5]),
        span(4, "a tool call", {}),
        llm_call(5, [1, 2, 3, 4, 5, 6], [7]),
        reward(6, 1.0),
    ]
    episode = episode_from_spans(spans, "ro-1")
    assert episode.rollout_id == "ro-1"
    assert [turn.reward for turn in episode.turns] == [0.25, None, 1.0]
    assert [turn.call.response_ids.tolist() for turn in episode.turns] == [[3], [5], [7]]
    assert episode.reward == 1.0
    assert [t.token_ids.tolist() for t in episode.trajectories] == [[1, 2, 3, 4, 5, 6, 7]]
    assert episode.missing_token_ids == 0
    assert episode.prefix_breaks == []


def test_order_is_by_sequence_id_and_never_by_clock() -> None:
    spans = [
        reward(3, 1.0, start_time=1.0),
        llm_call(2, [1, 2, 3], [4], start_time=10.0),
        llm_call(1, [1], [2], start_time=99.0),
    ]
    episode = episode_from_spans(spans, "ro-1")
    assert [turn.call.response_ids.tolist() for turn in episode.turns] == [[2], [4]]
    assert [turn.reward for turn in episode.turns] == [None, 1.0]


def test_the_last_reward_between_two_calls_counts_and_one_before_all_calls_is_no_turns() -> None:
    spans = [reward(1, 9.0), llm_call(2, [1], [2]), reward(3, 0.1), reward(4, 0.2), llm_call(5, [1, 2], [3])]
    episode = episode_from_spans(spans, "ro-1")
    assert [turn.reward for turn in episode.turns] == [0.2, None]
    assert episode.reward == 0.2


def test_a_reward_without_calls_is_still_the_episodes_reward() -> None:
    episode = episode_from_spans([reward(1, 0.5)], "ro-1")
    assert (episode.reward, episode.turns, episode.trajectories) == (0.5, [], [])


def test_no_reward_is_none_and_not_zero() -> None:
    assert episode_from_spans([llm_call(1, [1], [2])], "ro-1").reward is None
    assert episode_from_spans([], "ro-1").reward is None


def test_failed_calls_are_no_turns_and_not_missing() -> None:
    episode = episode_from_spans([failed_call(1), llm_call(2, [1], [2])], "ro-1")
    assert len(episode.turns) == 1
    assert episode.missing_token_ids == 0


@pytest.mark.parametrize(
    ("kind", "counts"), [("400", 0), ("404", 0), ("cancelled", 0), ("429", 1), ("500", 1), ("502", 1), ("599", 1)]
)
def test_calls_that_the_backend_failed_are_counted(kind: str, counts: int) -> None:
    assert episode_from_spans([failed_call(1, kind), llm_call(2, [1], [2])], "ro-1").backend_failures == counts


def test_answered_calls_without_token_ids_are_counted() -> None:
    episode = episode_from_spans([llm_call(1, [1], [2]), call_without_ids(2), call_without_ids(3)], "ro-1")
    assert len(episode.turns) == 1
    assert episode.missing_token_ids == 2


def test_prefix_breaks_are_on_the_episode() -> None:
    prompt = [1, 2, 3, 4, 5]
    episode = episode_from_spans([llm_call(1, prompt, [6, 7]), llm_call(2, [*prompt, 6, 8, 9], [1])], "ro-1")
    assert [(found.turn, found.earlier) for found in episode.prefix_breaks] == [(1, 0)]


def test_missing_logprobs_reach_training_as_nan() -> None:
    (trajectory,) = episode_from_spans([llm_call(1, [1], [2, 3], logprobs=False)], "ro-1").trajectories
    assert np.isnan(trajectory.logprobs).tolist() == [False, True, True]


def test_spans_of_two_attempts_are_refused() -> None:
    spans = [llm_call(1, [1], [2]), llm_call(2, [1], [2], attempt_id="at-2")]
    with pytest.raises(ValueError, match="one attempt"):
        episode_from_spans(spans, "ro-1")
    with pytest.raises(ValueError, match="ro-2"):
        episode_from_spans(spans[:1], "ro-2")


def test_trace_to_episodes_splits_by_rollout() -> None:
    spans = [
        llm_call(1, [1], [2]),
        llm_call(1, [5], [6], rollout_id="ro-2"),
        reward(2, 1.0),
        reward(2, 0.0, rollout_id="ro-2"),
    ]
    episodes = TraceToEpisodes()(spans)
    assert [(e.rollout_id, e.reward, len(e.turns)) for e in episodes] == [("ro-1", 1.0, 1), ("ro-2", 0.0, 1)]
