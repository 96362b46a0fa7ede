"""GRPO against numbers worked out by hand."""

import math

import pytest
import torch

from agentlightning.learner.advantages import compute_advantages, register_adv_est
from agentlightning.types import ConfigError


def advantages(scores, index, mask=None, **config):
    """Scores at the last position of rows of three tokens."""
    rewards = torch.zeros(len(scores), 3, dtype=torch.float64)
    rewards[:, -1] = torch.tensor(scores, dtype=torch.float64)
    mask = torch.ones_like(rewards) if mask is None else torch.tensor(mask, dtype=torch.float64)
    return compute_advantages("grpo", token_level_rewards=rewards, response_mask=mask, index=index, config=config)[0]


def test_group_of_two_by_hand():
    # mean 0.5, sample std of {1, 0} is sqrt(0.5)
    result = advantages([1.0, 0.0], ["a", "a"])
    expected = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert result[0].tolist() == pytest.approx([expected] * 3, abs=1e-12)
    assert result[1].tolist() == pytest.approx([-expected] * 3, abs=1e-12)


def test_groups_do_not_mix_and_labels_may_be_anything():
    # group x: 3, 1 -> mean 2, std sqrt(2); group 7: 0, 0, 6 -> mean 2, std sqrt(12)
    result = advantages([3.0, 0.0, 1.0, 0.0, 6.0], ["x", 7, "x", 7, 7])[:, 0]
    expected = [
        1 / (2**0.5 + 1e-6),
        -2 / (12**0.5 + 1e-6),
        -1 / (2**0.5 + 1e-6),
        -2 / (12**0.5 + 1e-6),
        4 / (12**0.5 + 1e-6),
    ]
    assert result.tolist() == pytest.approx(expected, abs=1e-12)


def test_without_std_is_dr_grpo():
    assert advantages([3.0, 0.0], [0, 0], norm_adv_by_std_in_grpo=False)[:, 0].tolist() == [1.5, -1.5]


@pytest.mark.parametrize(("norm", "expected"), [(True, 0.7 / (1 + 1e-6)), (False, 0.7)])
def test_group_of_one_keeps_its_score(norm, expected):
    assert advantages([0.7], ["a"], norm_adv_by_std_in_grpo=norm)[0, 0].item() == pytest.approx(expected, abs=1e-12)


def test_ties_are_exactly_zero_in_float32():
    # In float32 the mean of seven times 0.1 is not 0.1; over epsilon that would be noise of about 0.007.
    rewards = torch.full((7, 1), 0.1, dtype=torch.float32)
    assert (rewards.mean() - rewards[0]).abs().item() > 0
    result, _ = compute_advantages("grpo", token_level_rewards=rewards, response_mask=torch.ones(7, 1), index=[0] * 7)
    assert result.abs().max().item() == 0.0


def test_masked_tokens_get_nothing():
    result = advantages([1.0, 0.0], [0, 0], mask=[[1, 0, 1], [0, 0, 1]])
    assert (result == 0).tolist() == [[False, True, False], [True, True, False]]


def test_unknown_estimator_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'nope' is not one of .*grpo"):
        compute_advantages("nope", token_level_rewards=torch.ones(1, 1), response_mask=torch.ones(1, 1), index=[0])


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="exists already"):
        register_adv_est("grpo")(lambda **_: (torch.ones(1), torch.ones(1)))
