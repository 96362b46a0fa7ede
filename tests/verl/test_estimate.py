"""From what turns earned to advantages of tokens, by numbers worked out by hand."""

import pytest
import torch

from agentlightning.credit import relative
from agentlightning.types import TrainingError
from agentlightning.verl.estimate import advantages, reward_components, token_rewards
from agentlightning.verl.experience import Experience
from agentlightning.verl.rows import score

from .batches import identical
from .rollouts import call, one_turn, sample

CONVERSATION = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], [5, 5, 5])]


def experience_of(*samples, credit=identical):
    return Experience.of(score([list(samples)], "main_llm", credit))


def found(experience, estimator, credit=identical, rewards=None, settings=None, **known):
    rewards = token_rewards(experience, estimator) if rewards is None else rewards
    return advantages(experience, estimator, rewards, credit, settings or {}, **known)[0]


def earning(*values):
    return lambda episode, group: list(values)[: len(episode.turns)]


def test_a_score_stands_on_the_last_token():
    experience = experience_of(sample(0, 0, CONVERSATION, 3.0), one_turn(0, 1, 1.0))
    for estimator in ("grpo", "gae", "remax"):
        assert token_rewards(experience, estimator).tolist() == [[0, 0, 0, 0, 3], [0, 1, 0, 0, 0]]


def test_what_a_turn_without_a_token_earned_goes_to_the_tokens_before_it():
    calls = [call([1, 2], [3, 3]), call([1, 2, 3, 3, 4], []), call([9], [5])]
    experience = experience_of(sample(0, 0, calls, 0.0), credit=earning(1.0, 10.0, 100.0))
    assert token_rewards(experience, "gae").tolist() == [[0, 11, 100]]
    experience = experience_of(sample(0, 0, [call([9], []), calls[0]], 0.0), credit=earning(7.0, 1.0))
    assert token_rewards(experience, "gae").tolist() == [[0, 1]], "no token came before it"


def test_returns_run_over_the_turns_and_advantages_of_gae_are_whitened_differences_to_the_values():
    """Turns earn 1 and 2, gamma = lambda = 1: returns 3, 3, 2, 2, 2; values 0 leave them as advantages to whiten."""
    experience = experience_of(sample(0, 0, CONVERSATION, 0.0), credit=earning(1.0, 2.0))
    rewards = token_rewards(experience, "gae")
    result, returns = advantages(experience, "gae", rewards, identical, {}, values=torch.zeros(1, 5))
    assert returns.tolist() == [[3, 3, 2, 2, 2]]
    mean, deviation = 12 / 5, (6 / 5 / 4) ** 0.5  # squares 2 * 0.36 + 3 * 0.16 over n - 1
    assert result.tolist() == [pytest.approx([(r - mean) / deviation for r in (3, 3, 2, 2, 2)], rel=1e-5)]


def test_remax_takes_the_greedy_score_off_every_return():
    experience = experience_of(one_turn(0, 0, 1.0), one_turn(0, 1, 0.0))
    assert found(experience, "remax", reward_baselines=torch.tensor([0.25, 0.25])).tolist() == [
        [0.75, 0.75],
        [-0.25, -0.25],
    ]


def test_turns_that_differ_are_moved_in_the_units_of_the_estimator():
    """Scores 1 and 0. RLOO: 1 and -1, moved by -1 and +1 as they are; GRPO's move is over the deviation."""
    group = (sample(0, 0, CONVERSATION, 0.0), one_turn(0, 1, 0.0))
    experience = experience_of(*group, credit=earning(0.0, 2.0))
    # The second rollout has one turn, which earned 0.
    assert found(experience, "rloo").tolist() == [[0, 0, 2, 2, 2], [-1, -1, 0, 0, 0]]
    dr = found(experience, "grpo", settings={"norm_adv_by_std_in_grpo": False})
    assert dr.tolist() == [[-0.5, -0.5, 1.5, 1.5, 1.5], [-0.5, -0.5, 0, 0, 0]]
    deviation = 0.5**0.5
    unit = [(0.5 / (deviation + 1e-6) + move / deviation) for move in (-1, -1, 1, 1, 1)]
    assert found(experience, "grpo")[0].tolist() == pytest.approx(unit, rel=1e-5)


def test_numbers_of_a_relative_rule_stay_as_they_are():
    @relative
    def rule(episode, group):
        return [4.0, None][: len(episode.turns)]

    experience = experience_of(sample(0, 0, CONVERSATION, 1.0), one_turn(0, 1, 0.0), credit=rule)
    assert found(experience, "grpo", credit=rule).tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize("estimator", ["gae", "reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_a_single_token_can_not_be_whitened_and_teaches_nothing(estimator):
    """Its deviation from itself is 0 over 0; a batch that failures left so small must not end the run."""
    experience = experience_of(one_turn(0, 0, 1.0, length=1))
    rewards = token_rewards(experience, estimator)
    result, returns = advantages(experience, estimator, rewards, identical, {}, values=torch.full((1, 1), 0.25))
    assert result.tolist() == [[0]]
    assert returns.tolist() == [[1]], "the critic still learns what came of it"


def test_a_single_token_counts_as_any_other_where_nothing_is_whitened():
    assert found(experience_of(one_turn(0, 0, 1.0, length=1)), "rloo").tolist() == [[1]]
    assert found(experience_of(one_turn(0, 0, 1.0, length=1)), "grpo").tolist() == [[pytest.approx(1 / (1 + 1e-6))]]


def test_answers_without_a_token_count_in_their_group():
    empty = sample(0, 1, [call([1, 2], [])], 0.0)
    result = found(experience_of(one_turn(0, 0, 1.0), empty), "rloo")
    assert result.tolist() == [[1, 1], [0, 0]]


def test_a_group_that_said_nothing_leaves_the_others_alone():
    """OPO's baseline is weighted by lengths: of a group without any it is 0 / 0."""
    groups = [[one_turn(0, 0, 1.0), one_turn(0, 1, 0.0)], [sample(1, n, [call([1, 2], [])], 1.0) for n in range(2)]]
    experience = Experience.of(score(groups, "main_llm", identical))
    result = found(experience, "opo")
    assert [column.tolist() for column in experience.columns_of(result)] == [[0.5, 0.5], [-0.5, -0.5]]


def test_components_are_dimensions_and_a_failed_rollout_counts_with_its_reward():
    failed = one_turn(0, 1, None, status="failed", error="boom")
    experience = experience_of(one_turn(0, 0, 1.0, quality=0.5), failed)
    assert reward_components(experience, ["quality"])["quality"].tolist() == [0.5, 0.0]


def test_a_component_that_a_reward_lacks_is_named_with_the_mend():
    experience = experience_of(one_turn(0, 0, 1.0, quality=0.5))
    with pytest.raises(TrainingError, match=r"has 'speed', and the reward of rollout ro-1-0-0 has only \['quality'\]"):
        reward_components(experience, ["quality", "speed"])
