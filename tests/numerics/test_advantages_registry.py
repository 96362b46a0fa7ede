"""Estimators by name: what each needs, what users may add, and what is said when something is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from agentlightning.learner.advantages import (
    _ESTIMATORS,
    EstimatorNeeds,
    advantage_estimators,
    compute_advantages,
    register_adv_est,
    requirements,
)
from agentlightning.types import ConfigError

REWARDS, MASK = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[1, 1], [1, 0]])


@pytest.fixture(autouse=True)
def _only_ours_afterwards() -> Iterator[None]:
    before = dict(_ESTIMATORS)
    yield
    _ESTIMATORS.clear()
    _ESTIMATORS.update(before)


def compute(name: str, **columns: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return compute_advantages(name, **{"token_level_rewards": REWARDS, "response_mask": MASK, **columns})


GROUPS = EstimatorNeeds(index=True, group_relative=True, outcome=True)
TOKEN_BASELINE = EstimatorNeeds(index=True, old_log_probs=True, sum_pi_squared=True, group_relative=True)


def test_what_each_estimator_needs():
    assert {name: requirements(name) for name in advantage_estimators() if not name.startswith("test_")} == {
        "gae": EstimatorNeeds(values=True, whitens=True),
        "grpo": GROUPS,
        "grpo_vectorized": GROUPS,
        "grpo_passk": GROUPS,
        "gdpo": EstimatorNeeds(index=True, group_relative=True, outcome=True, components=True, whitens=True),
        "rloo": GROUPS,
        "rloo_vectorized": GROUPS,
        "opo": GROUPS,
        "gpg": GROUPS,
        "reinforce_plus_plus": EstimatorNeeds(whitens=True),
        "reinforce_plus_plus_baseline": replace(GROUPS, whitens=True),
        "remax": EstimatorNeeds(reward_baselines=True),
        "optimal_token_baseline": TOKEN_BASELINE,
        "tir_optimal_token_baseline": TOKEN_BASELINE,
    }


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("gae", "values"),
        ("grpo", "index"),
        ("rloo", "index"),
        ("remax", "reward_baselines"),
        ("optimal_token_baseline", "old_log_probs"),
        ("tir_optimal_token_baseline", "sum_pi_squared"),
    ],
)
def test_a_missing_column_is_named(name: str, missing: str):
    columns = {
        "index": [0, 0],
        "values": REWARDS,
        "reward_baselines": REWARDS[:, 0],
        "old_log_probs": REWARDS,
        "sum_pi_squared": REWARDS,
    }
    compute(name, **columns)
    del columns[missing]
    with pytest.raises(ValueError, match=f"`{name}` needs `{missing}`: "):
        compute(name, **columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"response_mask": MASK[:1]}, r"`response_mask` has shape \(1, 2\).*\(2, 2\)"),
        ({"index": [0, 0, 0]}, r"`index` has shape \(3,\).*\(2,\)"),
        ({"values": REWARDS[:, :1]}, r"`values` has shape \(2, 1\).*\(2, 2\)"),
        ({"reward_baselines": REWARDS}, r"`reward_baselines` has shape \(2, 2\).*\(2,\)"),
        ({"token_level_rewards": REWARDS[0]}, r"`token_level_rewards` has shape \(2,\).*\(B, T\)"),
        ({"index": [["a"], ["b"]]}, r"label \['a'\]; give one string or number a row"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        compute("grpo", **{"index": [0, 0], **columns})


def test_unknown_estimator_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'nope' is not one of .*grpo.*rloo"):
        compute("nope")
    with pytest.raises(ConfigError, match="'nope' is not one of"):
        requirements("nope")


def test_whole_numbers_are_rewards_too():
    assert compute("rloo", token_level_rewards=REWARDS.long(), index=[0, 0])[0].tolist() == [[-1.0, -1.0], [1.0, 0.0]]


def test_no_gradient_flows_into_advantages():
    values = torch.zeros(2, 2, requires_grad=True)
    assert not any(result.requires_grad for result in compute("gae", values=values))


def test_a_registered_function_gets_the_columns_it_names():
    @register_adv_est("named")
    def named(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: list[str],
        config: Any,
        values: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert index == ["a", "b"]
        assert config["gamma"] == config.gamma == 0.5
        assert not hasattr(config, "lam")
        result = token_level_rewards * response_mask + (0 if values is None else values)
        return result, -result

    given = {"index": ["a", "b"], "config": {"gamma": 0.5}, "old_log_probs": REWARDS, "accuracy": [1, 0]}
    advantages, returns = compute("named", **given)
    assert advantages.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert returns.tolist() == [[-1.0, -2.0], [0.0, 0.0]]
    assert compute("named", values=REWARDS, **given)[0].tolist() == [[2.0, 4.0], [0.0, 4.0]]
    assert requirements("named") == EstimatorNeeds(index=True)
    assert "named" in advantage_estimators()


def test_a_registered_function_with_open_keywords_gets_all_columns_that_exist():
    seen: dict[str, Any] = {}

    @register_adv_est("open")
    def takes_all(token_level_rewards: torch.Tensor, **columns: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.update(columns)
        return token_level_rewards, token_level_rewards

    compute("open", index=[0, 1], values=REWARDS, accuracy=[1, 0])
    assert set(seen) == {"response_mask", "config", "index", "values", "accuracy"}
    assert requirements("open") == EstimatorNeeds()


def test_a_column_without_a_default_is_needed():
    @register_adv_est("greedy")
    def greedy(
        *, token_level_rewards: torch.Tensor, reward_baselines: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = token_level_rewards - reward_baselines[:, None]
        return result, result

    assert requirements("greedy") == EstimatorNeeds(reward_baselines=True)
    with pytest.raises(ValueError, match="`greedy` needs `reward_baselines`"):
        compute("greedy")
    assert compute("greedy", reward_baselines=torch.tensor([1.0, 2.0]))[0].tolist() == [[0.0, 1.0], [-2.0, 2.0]]


def test_results_of_another_shape_are_refused():
    @register_adv_est("scalar")
    def scalar(token_level_rewards: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return token_level_rewards.sum(-1), token_level_rewards

    with pytest.raises(ValueError, match=r"`scalar` returned shapes \(2,\) and \(2, 2\).*\(2, 2\)"):
        compute("scalar")


def test_a_taken_name_is_refused_and_the_same_function_is_not():
    def mine(token_level_rewards: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return token_level_rewards, token_level_rewards

    assert register_adv_est("mine")(mine) is mine
    register_adv_est("mine")(mine)
    with pytest.raises(ValueError, match="'mine' exists already"):
        register_adv_est("mine")(lambda **_: (REWARDS, REWARDS))
    with pytest.raises(ValueError, match="'grpo' exists already"):
        register_adv_est("grpo")(mine)
