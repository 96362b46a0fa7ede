"""Groups, credit, advantages and weights of a step, by hand-worked numbers and by invariants."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.adapter import TokenGraph
from agentlightning.credit import get_credit
from agentlightning.types import Attempt, AttemptedRollout, Episode, TokenCall, TrainingError, Trajectory, Turn
from agentlightning.verl.config import load_config
from agentlightning.verl.daemon import Sample
from agentlightning.verl.rows import mini_batches, score, whole_groups
from tests.adapter.test_graph import traces

identical = get_credit("identical")


def config(**changes):
    base = {"actor_rollout_ref.model.path": "m", "data.train_batch_size": 4}
    return load_config({**base, **changes}).config


def call(prompt, response, logprobs=True):
    values = np.full(len(response), -1.0, np.float32) if logprobs else None
    return TokenCall("m", np.array(prompt, np.int32), np.array(response, np.int32), values, "stop")


def sample(task, number, calls, reward, *, status="succeeded", error=None, missing=0, backend_failures=0):
    graph = TokenGraph(calls)
    trajectories, calls = graph.assemble()
    attempt = Attempt(rollout_id="r", attempt_id="a", sequence_id=1, start_time=0.0, status=status)
    rollout_status = "succeeded" if status == "succeeded" else "failed"
    rollout = AttemptedRollout(rollout_id="r", input=task, start_time=0.0, status=rollout_status, attempt=attempt)
    episode = Episode("r", [Turn(c, None) for c in calls], trajectories, reward, [], missing, backend_failures)
    return Sample(task, number, rollout, episode, error)


def one_turn(task, number, reward, length=2, **changes):
    return sample(task, number, [call([1, 2], [3] * length)], reward, **changes)


def numbers(groups):
    return [[item.advantages for item in group] for group in groups]


def test_advantages_are_relative_to_the_group():
    groups = score(
        [[one_turn(0, 0, 1.0), one_turn(0, 1, 0.0)], [one_turn(1, 0, 5.0), one_turn(1, 1, 5.0)]], config(), identical
    )
    unit = 0.5 / (0.5**0.5 + 1e-6)
    assert numbers(groups)[0] == [[pytest.approx(unit)], [pytest.approx(-unit)]]
    assert numbers(groups)[1] == [[0.0], [0.0]]


def test_a_rollout_of_many_turns_counts_once_in_its_group():
    turns = [call([1, 2], [3]), call([1, 2, 3, 4], [5]), call([1, 2, 3, 4, 5, 6], [7])]
    groups = score([[sample(0, 0, turns, 1.0), one_turn(0, 1, 0.0)]], config(), identical)
    unit = 0.5 / (0.5**0.5 + 1e-6)  # as with one turn each
    assert numbers(groups) == [[[pytest.approx(unit)] * 3, [pytest.approx(-unit)]]]


def test_last_turn_trains_the_last_turn_only():
    turns = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], [5])]
    cfg = config()
    groups = score([[sample(0, 0, turns, 1.0), one_turn(0, 1, 0.0)]], cfg, get_credit("last_turn"))
    assert numbers(groups)[0][0][0] is None
    ((row, _),) = mini_batches(groups, cfg, 1)
    assert row.token_ids.tolist() == [1, 2, 3, 3, 4, 5]
    assert row.mask.tolist() == [False] * 5 + [True]


def test_turns_that_an_adapter_left_out_of_its_rows_do_not_thin_the_others():
    turns = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], [5])]
    whole = sample(0, 0, turns, 1.0)
    (row,) = whole.episode.trajectories
    kept = dataclasses.replace(whole.episode, trajectories=[Trajectory(row.token_ids, {1: row.calls[1]})])
    cfg = config()
    groups = score([[dataclasses.replace(whole, episode=kept), one_turn(0, 1, 0.0)]], cfg, identical)
    ((row, _),) = mini_batches(groups, cfg, 1)
    assert row.mask.tolist() == [False] * 5 + [True]
    assert row.weights[5] == pytest.approx(1 / 3)


def test_a_turn_that_earned_more_than_its_rollout_is_moved_by_the_difference():
    turns = [call([1, 2], [3]), call([1, 2, 3, 4], [5])]

    def per_turn(episode, group):
        return [0.0, 2.0] if len(episode.turns) == 2 else [0.0]

    groups = score([[sample(0, 0, turns, 2.0), one_turn(0, 1, 0.0)]], config(), per_turn)
    # scores 1 and 0: std sqrt(0.5); the rollout's own advantage, moved by -1 and +1 in units of the std
    own, spread = 0.5 / (0.5**0.5 + 1e-6), 0.5**0.5
    assert numbers(groups)[0][0] == [pytest.approx(own - 1 / spread), pytest.approx(own + 1 / spread)]


def test_a_missing_reward_is_filled():
    groups = score([[one_turn(0, 0, None), one_turn(0, 1, 1.0)]], config(), identical)
    assert [item.reward for item in groups[0]] == [0.0, 1.0]
    groups = score([[one_turn(0, 0, None)]], config(**{"agentlightning.reward_fillna_value": -1.0}), identical)
    assert groups[0][0].reward == -1.0


@pytest.mark.parametrize(
    "torn",
    [
        lambda: sample(0, 1, [], None, status="failed", error="x"),
        lambda: one_turn(0, 1, None, status="timeout", error="timeout"),
        lambda: one_turn(0, 1, None, status="unresponsive", error="unresponsive"),
        lambda: one_turn(0, 1, 1.0, missing=1),
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
        groups = score([[sample(0, 0, turns, 1.0), one_turn(0, 1, 0.0, length=5)]], cfg, identical)
        (rows,) = mini_batches(groups, cfg, 1)
        totals.append((len(rows), sum(float((row.weights * row.advantages)[row.mask].sum()) for row in rows)))
    assert [count for count, _ in totals] == [2, 3]
    assert totals[0][1] == pytest.approx(totals[1][1])


def test_rows_that_cannot_move_the_weights_are_left_out_but_counted():
    """Group 1 is silent: its tokens stay in the denominator of the mean and out of the forward pass."""
    cfg = config()
    samples = [[one_turn(0, 0, 1.0), one_turn(0, 1, 0.0)], [one_turn(1, 0, 1.0), one_turn(1, 1, 1.0)]]
    (rows,) = mini_batches(score(samples, cfg, identical), cfg, 1)
    assert len(rows) == 2
    assert rows[0].weights[rows[0].mask].tolist() == [pytest.approx(1 / 8)] * 2
    with_entropy = config(**{"actor_rollout_ref.actor.entropy_coeff": 0.1})
    (rows,) = mini_batches(score(samples, with_entropy, identical), with_entropy, 1)
    assert len(rows) == 4


def test_mini_batches_hold_whole_groups_and_shuffle_by_seed():
    samples = [[one_turn(task, 0, 1.0, length=task + 1), one_turn(task, 1, 0.0, length=task + 1)] for task in range(4)]
    cfg = config(**{"actor_rollout_ref.actor.ppo_mini_batch_size": 2})
    lengths = [[int(row.mask.sum()) for row in rows] for rows in mini_batches(score(samples, cfg, identical), cfg, 1)]
    assert lengths == [[1, 1, 2, 2], [3, 3, 4, 4]]
    shuffled = config(**{"actor_rollout_ref.actor.ppo_mini_batch_size": 2, "actor_rollout_ref.actor.shuffle": True})

    def order(step):
        batches = mini_batches(score(samples, shuffled, identical), shuffled, step)
        return [int(row.mask.sum()) for rows in batches for row in rows]

    assert sorted(order(1)) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert order(1) == order(1)
    assert len({tuple(order(step)) for step in range(6)}) > 1


def test_tokens_without_logprobs_are_refused():
    cfg = config()
    blind = sample(0, 0, [call([1, 2], [3], logprobs=False)], 1.0)
    with pytest.raises(TrainingError, match="without log-probs"):
        mini_batches(score([[blind, one_turn(0, 1, 0.0)]], cfg, identical), cfg, 1)


@pytest.mark.parametrize("reward", [0.1, 0.7, -0.1, 1 / 3])
def test_equal_rewards_are_a_tie_whatever_the_number_of_turns(reward):
    """The mean of three times 0.1 is not 0.1; an ulp over an ulp would be an advantage of about one."""

    def turns(count):
        return [call([1, 2] + [3, 4] * n, [3]) for n in range(count)]

    group = [sample(0, number, turns(count), reward) for number, count in enumerate((1, 2, 3, 6))]
    assert {a for item in score([group], config(), identical)[0] for a in item.advantages} == {0.0}


def test_a_rollout_whose_turns_earned_nothing_at_all_is_not_a_zero():
    """`None` is no signal: the two equal rollouts beside it are a tie."""
    group = [one_turn(0, 0, 1.0), one_turn(0, 1, 1.0), one_turn(0, 2, 1.0)]

    def credit(episode, _):
        return [None] if episode.turns is group[2].episode.turns else [episode.reward]

    scored = score([group], config(), credit)
    assert [item.advantages for item in scored[0]] == [[0.0], [0.0], [None]]


def test_a_loss_of_ones_own_sees_the_tokens_without_advantage():
    """Only a loss that is known to vanish there may skip them."""
    from agentlightning.learner.losses import register_policy_loss

    @register_policy_loss("test_of_rows")
    def square(log_prob, old_log_prob, advantages, config):
        return (log_prob - old_log_prob) ** 2, {}

    cfg = config(**{"actor_rollout_ref.actor.policy_loss.loss_mode": "test_of_rows"})
    (rows,) = mini_batches(score([[one_turn(0, 0, 1.0), one_turn(0, 1, 1.0)]], cfg, identical), cfg, 1)
    assert len(rows) == 2


@settings(max_examples=60, deadline=None)
@given(traces(), st.sampled_from(["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "token-sum"]))
def test_however_a_rollout_falls_into_rows_each_of_its_tokens_weighs_the_same(calls, mode):
    """Invariants 2 and 3 over random multi-agent traces: every sampled token once, with the weight of its rollout."""
    calls = [made for made in calls if made.prompt_ids.size]
    cfg = config(**{"actor_rollout_ref.actor.loss_agg_mode": mode, "actor_rollout_ref.actor.entropy_coeff": 0.1})
    tokens = sum(len(made.response_ids) for made in calls)
    groups = score([[sample(0, 0, calls, 1.0), one_turn(0, 1, 0.0)]], cfg, identical)
    (rows,) = mini_batches(groups, cfg, 1)
    assert sum(int(row.mask.sum()) for row in rows) == tokens + 2
    weight = {
        "token-mean": 1 / (tokens + 2),
        "token-sum": 1.0,
        "seq-mean-token-sum": 1 / (1 + (tokens > 0)),
        "seq-mean-token-mean": 1 / (1 + (tokens > 0)) / max(tokens, 1),
    }[mode]
    for row in rows[:-1]:
        assert row.weights[row.mask].tolist() == pytest.approx([weight] * int(row.mask.sum()))
