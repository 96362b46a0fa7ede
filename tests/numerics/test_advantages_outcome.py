"""Estimators that read only a row's score, against numbers worked out by hand."""

from __future__ import annotations

import math
import uuid
from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.learner.advantages import advantage_estimators, compute_advantages, requirements
from agentlightning.types import ConfigError

OUTCOME = [name for name in advantage_estimators() if requirements(name).outcome]
TIED = [name for name in OUTCOME if name != "gdpo"]


def advantages(
    name: str,
    scores: list[float],
    index: Any,
    mask: Any = None,
    dtype: torch.dtype = torch.float64,
    components: dict[str, Any] | None = None,
    **config: Any,
) -> torch.Tensor:
    """Scores at the last position of rows of three tokens."""
    rewards = torch.zeros(len(scores), 3, dtype=dtype)
    rewards[:, -1] = torch.tensor(scores, dtype=dtype)
    mask = torch.ones_like(rewards) if mask is None else torch.tensor(mask)
    result, returns = compute_advantages(
        name, token_level_rewards=rewards, response_mask=mask, index=index, config=config, **components or {}
    )
    assert returns is result
    return result


def scalars(*args: Any, **kwargs: Any) -> list[float]:
    """One number a row, where all tokens of all rows are trained."""
    result = advantages(*args, **kwargs)
    assert torch.equal(result, result[:, :1].expand_as(result))
    return result[:, 0].tolist()


def close(*expected: float, abs: float = 1e-9) -> Any:
    return pytest.approx(list(expected), abs=abs)


# GRPO


@pytest.mark.parametrize("name", ["grpo", "grpo_vectorized"])
def test_grpo_of_two(name: str):
    # mean 0.5, sample std of {1, 0} is sqrt(0.5)
    expected = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert scalars(name, [1.0, 0.0], ["a", "a"]) == close(expected, -expected, abs=1e-7)


@pytest.mark.parametrize(
    "index",
    [
        ["x", 7, "x", 7, 7],
        np.array(["x", "7", "x", "7", "7"], dtype=object),
        torch.tensor([5, -2, 5, -2, -2]),
        [uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=2)],
        [(0, "a"), (1, None), (0, "a"), (1, None), (1, None)],
    ],
)
def test_groups_do_not_mix_and_labels_may_be_anything(index: Any):
    # group x: 3, 1 -> mean 2, std sqrt(2); group 7: 0, 0, 6 -> mean 2, std sqrt(12)
    two, twelve = math.sqrt(2) + 1e-6, math.sqrt(12) + 1e-6
    result = scalars("grpo", [3.0, 0.0, 1.0, 0.0, 6.0], index)
    assert result == close(1 / two, -2 / twelve, -1 / two, -2 / twelve, 4 / twelve)


@pytest.mark.parametrize("name", ["grpo", "grpo_vectorized"])
def test_grpo_without_std_is_dr_grpo(name: str):
    assert scalars(name, [3.0, 0.0], [0, 0], norm_adv_by_std_in_grpo=False) == [1.5, -1.5]


def test_epsilon_is_a_setting():
    assert scalars("grpo", [1.0, -1.0], [0, 0], epsilon=1.0) == close(1 / (math.sqrt(2) + 1), -1 / (math.sqrt(2) + 1))


def test_grpo_vectorized_computes_in_float32():
    score = 1 + 2**-30  # 1 in float32
    assert scalars("grpo_vectorized", [score, 1.0], [0, 0]) == [0.0, 0.0]
    assert scalars("grpo", [score, 1.0], [0, 0])[0] > 0


# Groups of one


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("grpo", {}, 0.7 / (1 + 1e-6)),
        ("grpo", {"norm_adv_by_std_in_grpo": False}, 0.7),
        ("grpo_vectorized", {}, 0.7 / (1 + 1e-6)),
        ("rloo", {}, 0.7),
        ("rloo_vectorized", {}, 0.0),
        ("opo", {}, 0.7),
        ("gpg", {}, 0.7),
    ],
)
def test_a_group_of_one(name: str, config: dict[str, Any], expected: float):
    assert scalars(name, [0.7], ["a"], **config) == close(expected, abs=1e-7)


def test_a_group_of_one_beside_a_group_of_two():
    assert scalars("rloo", [0.7, 1.0, 0.0], ["a", "b", "b"]) == close(0.7, 1.0, -1.0)
    assert scalars("rloo_vectorized", [0.7, 1.0, 0.0], ["a", "b", "b"]) == close(0.0, 1.0, -1.0)


# Ties


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_are_exactly_zero(name: str, dtype: torch.dtype):
    # In float32 the mean of seven times 0.1 is not 0.1; over epsilon that would be noise of about 0.007.
    scores = torch.full((7,), 0.1, dtype=torch.float32)
    assert (scores.mean() - scores[0]).abs().item() > 0
    assert scalars(name, [0.1] * 7, [0] * 7, dtype=dtype) == [0.0] * 7


@pytest.mark.parametrize("name", ["grpo", "grpo_passk", "rloo", "opo", "gpg"])
def test_scores_that_differ_by_rounding_alone_are_ties(name: str):
    assert 0.1 + 0.2 != 0.3
    assert scalars(name, [0.1 + 0.2, 0.3, 0.3], [0, 0, 0]) == [0.0] * 3


def test_small_differences_that_are_not_rounding_count():
    # float32: 1e-4 is far above an ulp of 1; std = 1e-4 / sqrt(2), so the answer is as for {1, 0}
    assert scalars("grpo", [1.0001, 1.0], [0, 0])[0] == pytest.approx(0.5e-4 / (1e-4 / math.sqrt(2) + 1e-6), rel=1e-6)


# Masks


@pytest.mark.parametrize("name", [name for name in OUTCOME if name not in ("gdpo", "grpo_passk")])
def test_masked_tokens_get_nothing(name: str):
    result = advantages(name, [1.0, 0.0], [0, 0], mask=[[1, 0, 1], [0, 0, 1]])
    assert (result == 0).tolist() == [[False, True, False], [True, True, False]]


def test_a_reward_outside_the_mask_counts_in_the_score():
    mask = [[1, 1, 0], [1, 1, 0]]  # the scores stand at the third position
    assert advantages("rloo", [1.0, 0.0], [0, 0], mask=mask).tolist() == [[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]


def test_a_row_without_a_trained_token_still_counts_in_its_group():
    assert advantages("rloo", [1.0, 0.0], [0, 0], mask=[[1, 1, 1], [0, 0, 0]]).tolist() == [[1.0] * 3, [0.0] * 3]


# Pass@k


@pytest.mark.parametrize(("norm", "unit"), [(True, math.sqrt(19 / 3) + 1e-6), (False, 1.0)])
def test_passk_pays_the_best_for_its_lead(norm: bool, unit: float):
    # a: 3, 5, 0, squares 25 + 9 - 64/3 = 38/3; b: 4, -1, 2, squares 16 + 1 + 4 - 25/3 = 38/3; so both std sqrt(19/3)
    result = scalars("grpo_passk", [3.0, 4.0, 5.0, -1.0, 0.0, 2.0], list("ababab"), norm_adv_by_std_in_grpo=norm)
    assert result == close(0.0, 2 / unit, 2 / unit, 0.0, 0.0, 0.0)


def test_passk_pays_nobody_if_the_two_best_tie():
    assert scalars("grpo_passk", [5.0, 5.0, 0.0], [0, 0, 0]) == [0.0] * 3


def test_passk_refuses_a_group_of_one():
    with pytest.raises(ValueError, match=r"row 1 is alone under its label 'b'.*rollout\.n"):
        advantages("grpo_passk", [1.0, 0.0, 1.0], ["a", "b", "a"])


# RLOO, OPO, GPG


def test_rloo_compares_with_the_mean_of_the_others():
    # 3 - (0 + 6) / 2, 0 - (3 + 6) / 2, 6 - (3 + 0) / 2
    for name in ("rloo", "rloo_vectorized"):
        assert scalars(name, [3.0, 0.0, 6.0], [0, 0, 0]) == close(0.0, -4.5, 4.5)


def test_opo_weighs_the_baseline_by_length():
    # lengths 3 and 1: b = (3 * 1 + 1 * 5) / 4 = 2
    result = advantages("opo", [1.0, 5.0], [0, 0], mask=[[1, 1, 1], [0, 1, 0]])
    assert result.tolist() == [[-1.0] * 3, [0.0, 3.0, 0.0]]


def test_opo_of_a_group_without_a_trained_token_is_zero():
    assert advantages("opo", [1.0, 5.0], [0, 0], mask=[[0] * 3] * 2).tolist() == [[0.0] * 3] * 2


def test_gpg_scales_by_the_share_of_rows_with_a_score():
    # 4 rows, 2 of them with a score: alpha 2; means 1 and 1.5
    assert scalars("gpg", [2.0, 0.0, 3.0, 0.0], [0, 0, 1, 1]) == close(2.0, -2.0, 3.0, -3.0)


def test_gpg_without_any_score_is_zero():
    assert scalars("gpg", [0.0, 0.0], [0, 1]) == [0.0, 0.0]


# REINFORCE++ with baseline


def test_reinforce_plus_plus_baseline_whitens_over_the_tokens():
    # centred 1 and -1; tokens 1, 1, 1, -1: mean 1/2, unbiased variance (3/4 + 9/4) / 3 = 1
    result = advantages("reinforce_plus_plus_baseline", [2.0, 0.0], [0, 0], mask=[[1, 1, 1], [0, 1, 0]])
    assert result[0].tolist() == close(0.5, 0.5, 0.5, abs=1e-8)
    assert result[1].tolist() == close(0.0, -1.5, 0.0, abs=2e-8)


def test_reinforce_plus_plus_baseline_keeps_the_score_of_a_row_alone():
    # centred 4, 1, -1; mean 4/3, variance (64 + 1 + 49) / 9 * 3 tokens each / 8
    unit = math.sqrt((64 + 1 + 49) / 9 * 3 / 8)
    result = scalars("reinforce_plus_plus_baseline", [4.0, 2.0, 0.0], ["a", "b", "b"])
    assert result == close(8 / 3 / unit, -1 / 3 / unit, -7 / 3 / unit, abs=1e-8)


# GDPO

PARTS = {"right": [1.0, 0.0, 1.0, 1.0], "form": [0.0, 2.0, 5.0, 3.0]}


def test_gdpo_normalises_each_component_on_its_own():
    # right: u, -u in the first group, a tie in the second; form: -u, u and u, -u; u = 1 / sqrt(2) for any two numbers
    u = 0.5 / (math.sqrt(0.5) + 1e-6)
    v = 1.0 / (math.sqrt(2.0) + 1e-6)
    total = [u - 2 * v, -u + 2 * v, 2 * v, -2 * v]  # mean 0
    unit = math.sqrt(sum(x * x for x in total) / 4 * 12 / 11 + 1e-8)
    result = scalars(
        "gdpo",
        [9.0, 9.0, 9.0, 1.0],
        [0, 0, 1, 1],
        components={key: torch.tensor(values, dtype=torch.float64) for key, values in PARTS.items()},
        gdpo_reward_keys=["right", "form"],
        gdpo_reward_weights=[1.0, 2.0],
    )
    assert result == close(*(x / unit for x in total), abs=1e-6)


def test_gdpo_weights_are_one_by_default_and_components_may_stand_on_tokens():
    keys = {"gdpo_reward_keys": ["right", "form"]}
    given = scalars("gdpo", [0.0] * 4, [0, 0, 1, 1], components=PARTS, gdpo_reward_weights=[1, 1], **keys)
    on_tokens = {key: torch.tensor([[0.0, value, 0.0] for value in values]) for key, values in PARTS.items()}
    assert scalars("gdpo", [0.0] * 4, [0, 0, 1, 1], components=on_tokens, **keys) == given
    assert scalars("gdpo", [0.0] * 4, [0, 0, 1, 1], components=PARTS, **keys) == given


def test_gdpo_without_settings_takes_the_reward_itself():
    # tokens u, -u in equal shares: whitened by sqrt(u^2 * 6 / 5)
    assert scalars("gdpo", [3.0, 1.0], [0, 0]) == close(math.sqrt(5 / 6), -math.sqrt(5 / 6), abs=1e-6)


def test_gdpo_names_what_is_missing():
    with pytest.raises(ConfigError, match=r"`algorithm\.gdpo_reward_keys`"):
        advantages("gdpo", [1.0, 0.0], [0, 0], gamma=1.0)
    with pytest.raises(ConfigError, match="1 numbers for 2 names"):
        advantages("gdpo", [1.0] * 4, [0] * 4, gdpo_reward_keys=["right", "form"], gdpo_reward_weights=[1])
    with pytest.raises(ValueError, match=r"`style`.*Given: form, right"):
        advantages("gdpo", [1.0] * 4, [0] * 4, components=PARTS, gdpo_reward_keys=["right", "style"])
    with pytest.raises(ValueError, match=r"`right` has shape \(3,\).*\(4,\) or \(4, 3\)"):
        advantages("gdpo", [1.0] * 4, [0] * 4, components={"right": [1, 2, 3]}, gdpo_reward_keys=["right"])


# Whitening


@pytest.mark.parametrize("name", ["gdpo", "reinforce_plus_plus_baseline"])
@pytest.mark.parametrize("tokens", [0, 1])
def test_fewer_than_two_tokens_can_not_be_whitened(name: str, tokens: int):
    with pytest.raises(ValueError, match=f"at least two trained tokens.*keeps {tokens}"):
        advantages(name, [1.0, 0.0], [0, 0], mask=[[tokens, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("name", [name for name in OUTCOME if name not in ("gdpo", "reinforce_plus_plus_baseline")])
def test_an_empty_batch_stays_empty(name: str):
    empty = torch.zeros(0, 3)
    result, _ = compute_advantages(name, token_level_rewards=empty, response_mask=empty, index=[])
    assert result.shape == (0, 3)
