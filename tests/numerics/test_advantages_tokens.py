"""Estimators that give each token its own number, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from agentlightning.learner.advantages import compute_advantages

NAN = float("nan")


def compute(
    name: str, rewards: list[list[float]], mask: list[list[int]], dtype: torch.dtype = torch.float64, **columns: Any
) -> tuple[list[list[float]], list[list[float]]]:
    given = {
        key: torch.tensor(value, dtype=dtype) if key not in ("index", "config") else value
        for key, value in columns.items()
    }
    advantages, returns = compute_advantages(
        name, token_level_rewards=torch.tensor(rewards, dtype=dtype), response_mask=torch.tensor(mask), **given
    )
    return advantages.tolist(), returns.tolist()


def close(rows: list[list[float]], abs: float = 1e-7) -> list[Any]:
    return [pytest.approx(row, abs=abs) for row in rows]


def whitened(rows: list[list[float]], valid: list[float]) -> list[list[float]]:
    centre = sum(valid) / len(valid)
    unit = math.sqrt(sum((x - centre) ** 2 for x in valid) / (len(valid) - 1) + 1e-8)
    return [[(x - centre) / unit for x in row] for row in rows]


# GAE


def test_gae_of_one_row():
    # gamma 1/2, lambda 1/2. t=2: 4 - 2 = 2. t=1: 0 + 1 - 2 = -1, + 1/4 * 2 = -1/2. t=0: 1 + 1 - 4 = -2, - 1/8
    advantages, returns = compute(
        "gae",
        [[1.0, 0.0, 4.0]],
        [[1, 1, 1]],
        values=[[4.0, 2.0, 2.0]],
        config={"gamma": 0.5, "lam": 0.5},
    )
    expected = [-2.125, -0.5, 2.0]
    assert advantages == close(whitened([expected], expected))
    assert returns == [[1.875, 1.5, 4.0]]


def test_gae_skips_what_the_policy_did_not_sample():
    """A tool's answer of two tokens: no discount across it, its values unread, its advantage the later token's."""
    # t=3: 4 - 2 = 2. t=0: 1 + 1/2 * 2 - 4 = -2, + 1/4 * 2 = -3/2
    advantages, returns = compute(
        "gae",
        [[1.0, 7.0, NAN, 4.0, NAN]],
        [[1, 0, 0, 1, 0]],
        values=[[4.0, 8.0, 9.0, 2.0, NAN]],
        config={"gamma": 0.5, "lam": 0.5},
    )
    assert advantages == close(whitened([[-1.5, 2.0, 2.0, 2.0, 0.0]], [-1.5, 2.0]))
    assert returns[0][:4] == [2.5, 10.0, 11.0, 4.0]


def test_gae_defaults_are_rewards_to_go_minus_values():
    advantages, returns = compute("gae", [[0.0, 1.0], [0.0, 3.0]], [[1, 1]] * 2, values=[[0.5, 0.25], [1.0, 2.0]])
    expected = [[0.5, 0.75], [2.0, 1.0]]
    assert advantages == close(whitened(expected, [0.5, 0.75, 2.0, 1.0]))
    assert returns == [[1.0, 1.0], [3.0, 3.0]]


def test_gae_of_a_row_without_a_trained_token_is_zero_before_whitening():
    advantages, returns = compute("gae", [[1.0, 2.0], [0.0, 1.0]], [[0, 0], [1, 1]], values=[[3.0, 4.0], [0.0, 0.5]])
    assert advantages == close(whitened([[0.0, 0.0], [1.0, 0.5]], [1.0, 0.5]))
    assert returns == [[3.0, 4.0], [1.0, 1.0]]


# REINFORCE++


def test_reinforce_plus_plus_discounts_sampled_tokens_only():
    # from the end: 4; 0 + 1/2 * 4 = 2 at t=1 (t=2 skipped, its reward too); 1 + 1/2 * 2 = 2
    advantages, returns = compute("reinforce_plus_plus", [[1.0, 0.0, NAN, 4.0]], [[1, 1, 0, 1]], config={"gamma": 0.5})
    assert returns == [[2.0, 2.0, 0.0, 4.0]]
    expected = whitened([[2.0, 2.0, 0.0, 4.0]], [2.0, 2.0, 4.0])[0]
    expected[2] = 0.0
    assert advantages == close([expected])


def test_reinforce_plus_plus_without_discount_gives_all_tokens_of_a_row_its_score():
    advantages, returns = compute("reinforce_plus_plus", [[0.0, 3.0], [0.0, 1.0]], [[1, 1]] * 2)
    assert returns == [[3.0, 3.0], [1.0, 1.0]]
    assert advantages == close([[math.sqrt(3) / 2] * 2, [-math.sqrt(3) / 2] * 2])  # variance 4/3


@pytest.mark.parametrize("name", ["gae", "reinforce_plus_plus"])
@pytest.mark.parametrize("tokens", [0, 1])
def test_fewer_than_two_tokens_can_not_be_whitened(name: str, tokens: int):
    with pytest.raises(ValueError, match=f"at least two trained tokens.*keeps {tokens}"):
        compute(name, [[1.0, 2.0]], [[tokens, 0]], values=[[0.0, 0.0]])


# ReMax


def test_remax_subtracts_the_greedy_score():
    advantages, returns = compute(
        "remax",
        [[0.0, 1.0, 2.0, NAN], [0.0, 0.0, 0.0, 5.0]],
        [[1, 1, 1, 0], [1, 0, 1, 1]],
        reward_baselines=[2.0, 4.0],
    )
    assert returns == [[3.0, 3.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0]]
    # outside the mask the returns stay, as in verl
    assert advantages == [[1.0, 1.0, 0.0, 0.0], [1.0, 5.0, 1.0, 1.0]]


# Optimal token baselines: p = 1/2 everywhere and sum(p^2) chosen so that a token's part is a round number.

HALF = math.log(0.5)  # 1 - 2 * 1/2 = 0, so a token's part is sum(p^2) itself


def test_the_baseline_weighs_returns_by_the_parts_so_far():
    # parts 1, 1 and 3, 1: so far 1, 2 and 3, 4. Returns 4, 4 and 2, 0.
    # b_0 = (1 * 4 + 3 * 2) / 4 = 5/2; b_1 = (2 * 4 + 4 * 0) / 6 = 4/3
    advantages, returns = compute(
        "optimal_token_baseline",
        [[0.0, 4.0], [2.0, 0.0]],
        [[1, 1], [1, 1]],
        index=["a", "a"],
        old_log_probs=[[HALF, HALF]] * 2,
        sum_pi_squared=[[1.0, 1.0], [3.0, 1.0]],
    )
    assert returns == [[4.0, 4.0], [2.0, 0.0]]
    assert advantages == close([[1.5, 8 / 3], [-0.5, -4 / 3]])


def test_importance_weights_count_squared_and_probabilities_twice():
    # p = 1/4: 1 - 1/2 + 1/2 = 1, times 2^2 = 4. Against a part of 1: b = (4 * 5 + 1 * 0) / 5 = 4
    advantages, _ = compute(
        "optimal_token_baseline",
        [[5.0], [0.0]],
        [[1], [1]],
        index=[0, 0],
        old_log_probs=[[math.log(0.25)], [HALF]],
        sum_pi_squared=[[0.5], [1.0]],
        rollout_is_weights=[[2.0], [1.0]],
    )
    assert advantages == close([[1.0], [-4.0]])


@pytest.mark.parametrize("name", ["optimal_token_baseline", "tir_optimal_token_baseline"])
@pytest.mark.parametrize(
    ("cut", "tail"),
    [(True, 6.0), (False, 0.0)],  # beyond the second length the baseline is the row's own return
)
def test_the_longest_row_has_no_baseline_where_it_is_alone(name: str, cut: bool, tail: float):
    # parts 1: so far 1, 2, 3 and 1. b_0 = (1 * 6 + 1 * 2) / 2 = 4
    advantages, _ = compute(
        name,
        [[0.0, 0.0, 6.0], [2.0, 0.0, 0.0]],
        [[1, 1, 1], [1, 0, 0]],
        index=[0, 0],
        old_log_probs=[[HALF] * 3] * 2,
        sum_pi_squared=[[1.0] * 3] * 2,
        config={"handle_zero_tail": cut},
    )
    assert advantages == close([[2.0, tail, tail], [-2.0, 0.0, 0.0]])


def test_two_longest_rows_keep_their_baseline():
    advantages, _ = compute(
        "optimal_token_baseline",
        [[0.0, 6.0], [0.0, 2.0], [1.0, 0.0]],
        [[1, 1], [1, 1], [1, 0]],
        index=[0, 0, 0],
        old_log_probs=[[HALF] * 2] * 3,
        sum_pi_squared=[[1.0] * 2] * 3,
    )
    # b_0 = (6 + 2 + 1) / 3 = 3; b_1 = (2 * 6 + 2 * 2) / 4 = 4
    assert advantages == close([[3.0, 2.0], [-1.0, -2.0], [-2.0, 0.0]])


TURNS = {
    "rewards": [[0.0, NAN, NAN, 4.0], [0.0, 2.0, NAN, NAN]],
    "mask": [[1, 0, 0, 1], [1, 1, 0, 0]],
    "index": [0, 0],
    "old_log_probs": [[HALF, NAN, NAN, HALF], [HALF, HALF, NAN, NAN]],
    "sum_pi_squared": [[1.0, NAN, NAN, 1.0], [1.0, 1.0, NAN, NAN]],
}


def test_rows_of_several_turns_are_compared_at_their_kth_sampled_token():
    advantages, returns = compute("tir_optimal_token_baseline", **TURNS)
    assert returns == [[4.0] * 4, [2.0, 2.0, 0.0, 0.0]]
    assert advantages == close([[1.0, 0.0, 0.0, 1.0], [-1.0, -1.0, 0.0, 0.0]])  # b = 3 at both


def test_compared_by_position_each_second_token_is_alone():
    advantages, _ = compute("optimal_token_baseline", **TURNS)
    assert advantages == close([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("name", ["optimal_token_baseline", "tir_optimal_token_baseline"])
def test_a_row_alone_has_no_baseline(name: str):
    """Alone under its label, or beside a row that has no trained token."""
    columns = {"old_log_probs": [[HALF] * 2] * 3, "sum_pi_squared": [[1.0] * 2] * 3}
    advantages, _ = compute(
        name, [[0.0, 4.0], [0.0, 2.0], [0.0, 9.0]], [[1, 1], [1, 1], [0, 0]], index=["a", "b", "b"], **columns
    )
    assert advantages == [[4.0, 4.0], [2.0, 2.0], [0.0, 0.0]]
