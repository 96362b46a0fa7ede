"""Groups, credit, advantages and weights of a step, by hand-worked numbers and by invariants."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.credit import get_credit
from agentlightning.types import TrainingError, Trajectory
from agentlightning.verl.config import load_config
from agentlightning.verl.estimate import token_rewards
from agentlightning.verl.experience import Experience
from agentlightning.verl.rows import mini_batches, score, whole_groups
from tests.adapter.test_graph import traces

from .batches import batches, identical, numbers, valued
from .rollouts import call, one_turn, sample


def config(**changes):
    base = {"actor_rollout_ref.model.path": "m", "data.train_batch_size": 4}
    return load_config({**base, **changes}).config


def test_advantages_are_relative_to_the_group():
    found = numbers(
        valued([[one_turn(0, 0, 1.0), one_turn(0, 1, 0.0)], [one_turn(1, 0, 5.0), one_turn(1, 1, 5.0)]], config())
    )
    unit = 0.5 / (0.5**0.5 + 1e-6)
    assert found == [[pytest.approx(unit)], [pytest.approx(-unit)], [0.0], [0.0]]


def test_a_rollout_of_many_turns_counts_once_in_its_group():
    turns = [call([1, 2], [3]), call([1, 2, 3, 4], [5]), call([1, 2, 3, 4, 5, 6], [7])]
    found = numbers(valued([[sample(0, 0, turns, 1.0), one_turn(0, 1, 0.0)]], config()))
    unit = 0.5 / (0.5**0.5 + 1e-6)  # as with one turn each
    assert found == [[pytest.approx(unit)] * 3, [pytest.approx(-unit)]]


def test_last_turn_trains_the_last_turn_only():
    turns = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], [5])]
    groups = [[sample(0, 0, turns, 1.0), one_turn(0, 1, 0.0)]]
    cfg, rule = config(), get_credit("last_turn")
    assert numbers(valued(groups, cfg, rule))[0][0] is None
    ((row, _),) = batches(groups, cfg, rule)
    assert row.token_ids.tolist() == [1, 2, 3, 3, 4, 5]
    assert row.mask.tolist() == [False] * 5 + [True]


def test_turns_that_an_adapter_left_out_of_its_rows_do_not_thin_the_others():
    turns = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], [5])]
    whole = sample(0, 0, turns, 1.0)
    (row,) = whole.episode.trajectories
    kept = dataclasses.replace(whole.episode, trajectories=[Trajectory(row.token_ids, {1: row.calls[1]})])
    groups = [[dataclasses.replace(whole, episodes={"main_llm": kept}), one_turn(0, 1, 0.0)]]
    ((row, _),) = batches(groups, config())
    assert row.mask.tolist() == [False] * 5 + [True]
    assert row.columns["weights"].tolist() == [pytest.approx(1 / 3)]


def test_a_turn_that_earned_more_than_its_rollout_is_moved_by_the_difference():
    turns = [call([1, 2], [3]), call([1, 2, 3, 4], [5])]

    def per_turn(episode, group):
        return [0.0, 2.0] if len(episode.turns) == 2 else [0.0]

    found = numbers(valued([[sample(0, 0, turns, 2.0), one_turn(0, 1, 0.0)]], config(), per_turn))
    # scores 1 and 0: std sqrt(0.5); the rollout's own advantage, moved by -1 and +1 in units of the std
    own, spread = 0.5 / (0.5**0.5 + 1e-6), 0.5**0.5
    assert found[0] == [pytest.approx(own - 1 / spread), pytest.approx(own + 1 / spread)]


def test_an_estimator_of_returns_sees_what_each_turn_earned_where_it_earned_it():
    turns = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], [5, 5, 5])]

    def rule(episode, group):
        return [1.0, 2.0]

    experience = Experience.of(score([[sample(0, 0, turns, 3.0)]], "main_llm", rule))
    assert token_rewards(experience, "gae").tolist() == [[0, 1, 0, 0, 2]]
    same = Experience.of(score([[sample(0, 0, turns, 3.0)]], "main_llm", identical))
    assert token_rewards(same, "gae").tolist() == [[0, 0, 0, 0, 3]]
    assert token_rewards(experience, "grpo").tolist() == [[0, 0, 0, 0, 1.5]]


def test_a_rollout_without_a_token_of_the_policy_counts_in_its_group():
    """Another policy spoke in it; its reward is part of the mean that the others are compared with."""
    silent = dataclasses.replace(one_turn(0, 1, 0.0).episode, turns=[], trajectories=[])
    group = [one_turn(0, 0, 1.0), dataclasses.replace(one_turn(0, 1, 0.0), episodes={"main_llm": silent})]
    assert numbers(valued([group], config())) == [[pytest.approx(0.5 / (0.5**0.5 + 1e-6))], []]


def test_matrices_follow_the_turns_however_the_rollout_fell_into_rows():
    """Turns 0 and 2 continue each other, turn 1 stands apart: two rows, one line in the order of turns."""
    turns = [call([1], [3, 4]), call([9], [5]), call([1, 3, 4, 8], [6])]
    experience = Experience.of(score([[sample(0, 0, turns, 1.0)]], "main_llm", identical))
    assert len(experience.rows) == 2
    ids = [row.token_ids[row.mask].astype(np.float32) for row in experience.rows]
    line = experience.matrix_RT(ids)
    assert line.tolist() == [[3, 4, 5, 6]]
    assert [column.tolist() for column in experience.columns_of(line)] == [column.tolist() for column in ids]


def test_a_missing_reward_is_filled():
    def rewards(groups, **changes):
        return [item.reward for item in valued(groups, config(**changes)).rollouts]

    assert rewards([[one_turn(0, 0, None), one_turn(0, 1, 1.0)]]) == [0.0, 1.0]
    assert rewards([[one_turn(0, 0, None)]], **{"agentlightning.reward_fillna_value": -1.0}) == [-1.0]


def test_shaping_is_added_to_the_reward_and_the_last_turns():
    (item,) = score([[one_turn(0, 0, 1.0)]], "main_llm", identical, shape=lambda episode: -0.25)[0]
    assert (item.reward, item.earned, item.penalty) == (0.75, [0.75], -0.25)


@pytest.mark.parametrize(
    "torn",
    [
        lambda: sample(0, 1, [], None, status="failed", error="x"),
        lambda: one_turn(0, 1, None, status="timeout", error="timeout"),
        lambda: one_turn(0, 1, None, status="unresponsive", error="unresponsive"),
        lambda: one_turn(0, 1, 1.0, missing=1),
        lambda: one_turn(0, 1, float("nan")),
        lambda: one_turn(0, 1, float("inf")),
        lambda: one_turn(0, 1, 1.0, quality=float("nan")),
        lambda: one_turn(0, 1, None, status="failed", error="InternalServerError", backend_failures=1),
    ],
)
def test_a_group_is_whole_or_dropped_whole(torn):
    whole, dropped = whole_groups([one_turn(0, 0, 1.0), torn(), one_turn(1, 0, 1.0)])
    assert [[s.task for s in group] for group in whole] == [[1]]
    assert dropped == 1


def test_a_rollout_that_got_over_a_failure_of_the_backend_stays_in_its_group():
    whole, dropped = whole_groups([one_turn(0, 0, 1.0), one_turn(0, 1, 1.0, backend_failures=1)])
    assert (len(whole[0]), dropped) == (2, 0)


def test_a_failure_of_the_agent_itself_stays_in_its_group():
    whole, dropped = whole_groups([one_turn(0, 0, 1.0), one_turn(0, 1, None, status="failed", error="bad JSON")])
    assert len(whole[0]) == 2
    assert dropped == 0


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "token-sum"])
def test_splitting_a_rollout_into_rows_does_not_change_its_weight(mode):
    """The same turns, once as one conversation and once as two that share nothing."""
    cfg = config(**{"actor_rollout_ref.actor.loss_agg_mode": mode})
    joined = [call([1, 2], [3, 4]), call([1, 2, 3, 4, 5], [6])]
    apart = [call([1, 2], [3, 4]), call([9, 8, 7], [6])]
    totals = []
    for turns in (joined, apart):
        (rows,) = batches([[sample(0, 0, turns, 1.0), one_turn(0, 1, 0.0, length=5)]], cfg)
        totals.append(
            (len(rows), sum(float((row.columns["weights"] * row.columns["advantages"]).sum()) for row in rows))
        )
    assert [count for count, _ in totals] == [2, 3]
    assert totals[0][1] == pytest.approx(totals[1][1])


def test_rows_know_their_rollout_within_the_mini_batch():
    cfg = config(**{"actor_rollout_ref.actor.ppo_mini_batch_size": 1})
    apart = [call([1, 2], [3, 4]), call([9, 8, 7], [6])]
    groups = [[sample(task, 0, apart, 1.0), one_turn(task, 1, 0.0)] for task in range(2)]
    assert [[row.sequence for row in rows] for rows in batches(groups, cfg)] == [[0, 0, 1], [0, 0, 1]]


def test_rows_that_cannot_move_the_weights_are_left_out_but_counted():
    """Group 1 is silent: its tokens stay in the denominator of the mean and out of the forward pass."""
    groups = [[one_turn(0, 0, 1.0), one_turn(0, 1, 0.0)], [one_turn(1, 0, 1.0), one_turn(1, 1, 1.0)]]
    (rows,) = batches(groups, config())
    assert len(rows) == 2
    assert rows[0].columns["weights"].tolist() == [pytest.approx(1 / 8)] * 2
    (rows,) = batches(groups, config(), keep_silent=True)
    assert len(rows) == 4


def test_rejected_tokens_weigh_nothing_and_stay_in_the_denominator():
    cfg = config()
    experience = valued([[one_turn(0, 0, 1.0), one_turn(0, 1, 0.0)]], cfg)
    kept = [np.array([True, False]), np.array([False, False])]
    ((row,),) = mini_batches(experience, size=4, loss_agg_mode="token-mean", kept=kept)
    assert row.mask.tolist() == [False, False, True, False]
    assert row.columns["weights"].tolist() == [pytest.approx(1 / 4)]


def test_mini_batches_hold_whole_groups_and_shuffle_by_seed():
    groups = [[one_turn(task, 0, 1.0, length=task + 1), one_turn(task, 1, 0.0, length=task + 1)] for task in range(4)]
    cfg = config(**{"actor_rollout_ref.actor.ppo_mini_batch_size": 2})
    assert [[row.trained for row in rows] for rows in batches(groups, cfg)] == [[1, 1, 2, 2], [3, 3, 4, 4]]

    def order(seed):
        return [row.trained for rows in batches(groups, cfg, shuffle_seed=seed) for row in rows]

    assert sorted(order(1)) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(6)}) > 1


def test_tokens_without_logprobs_are_refused():
    blind = sample(0, 0, [call([1, 2], [3], logprobs=False)], 1.0)
    with pytest.raises(TrainingError, match="without log-probs"):
        batches([[blind, one_turn(0, 1, 0.0)]], config())


@pytest.mark.parametrize("reward", [0.1, 0.7, -0.1, 1 / 3])
def test_equal_rewards_are_a_tie_whatever_the_number_of_turns(reward):
    """The mean of three times 0.1 is not 0.1; an ulp over an ulp would be an advantage of about one."""

    def turns(count):
        return [call([1, 2] + [3, 4] * n, [3]) for n in range(count)]

    group = [sample(0, number, turns(count), reward) for number, count in enumerate((1, 2, 3, 6))]
    assert {a for turns in numbers(valued([group], config())) for a in turns} == {0.0}


def test_a_rollout_whose_turns_earned_nothing_at_all_is_not_a_zero():
    """`None` is no signal: the two equal rollouts beside it are a tie."""
    group = [one_turn(0, 0, 1.0), one_turn(0, 1, 1.0), one_turn(0, 2, 1.0)]

    def credit(episode, _):
        return [None] if episode.turns[0].call is group[2].episode.turns[0].call else [episode.reward]

    assert numbers(valued([group], config(), credit)) == [[0.0], [0.0], [None]]


@settings(max_examples=60, deadline=None)
@given(traces(), st.sampled_from(["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "token-sum"]))
def test_however_a_rollout_falls_into_rows_each_of_its_tokens_weighs_the_same(calls, mode):
    """Invariants 2 and 3 over random multi-agent traces: every sampled token once, with the weight of its rollout."""
    calls = [made for made in calls if made.prompt_ids.size]
    cfg = config(**{"actor_rollout_ref.actor.loss_agg_mode": mode})
    tokens = sum(len(made.response_ids) for made in calls)
    (rows,) = batches([[sample(0, 0, calls, 1.0), one_turn(0, 1, 0.0)]], cfg, keep_silent=True)
    assert sum(row.trained for row in rows) == tokens + 2
    weight = {
        "token-mean": 1 / (tokens + 2),
        "token-sum": 1.0,
        "seq-mean-token-sum": 1 / (1 + (tokens > 0)),
        "seq-mean-token-mean": 1 / (1 + (tokens > 0)) / max(tokens, 1),
    }[mode]
    for row in rows[:-1]:
        assert row.columns["weights"].tolist() == pytest.approx([weight] * row.trained)
