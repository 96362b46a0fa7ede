"""The functions by which anybody may check numbers: their signatures, and every form in which arguments may come."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from agentlightning.learner.advantages import advantage_estimators, compute_advantages, requirements
from agentlightning.learner.correction import compute_rollout_correction
from agentlightning.learner.kl import kl_penalty
from agentlightning.learner.losses import (
    agg_loss,
    compute_online_dpo_loss,
    compute_policy_loss,
    compute_sppo_loss,
    compute_value_loss,
    policy_losses,
)

ESTIMATORS = [name for name in advantage_estimators() if not name.startswith("test_")]
LOSSES = [name for name in policy_losses() if not name.startswith("test_")]
MASK = [[1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]
INDEX = ["a", "a", "b", "b", "c", "c"]
ALGORITHM = {"gamma": 0.9, "lam": 0.8, "gdpo_reward_keys": ["style", "truth"], "gdpo_reward_weights": [0.5, 2.0]}
ACTOR = {
    "clip_ratio": 0.1,
    "clip_ratio_high": 0.3,
    "seed": 1,
    "policy_loss": {"dro_beta": 0.5, "clip_cov_ratio": 0.2, "clip_cov_lb": 0.0, "kl_cov_ratio": 0.3},
    "global_batch_info": {"dp_size": 2, "batch_num_tokens": 40, "global_batch_size": 12, "loss_scale_factor": None},
    "rollout_correction": {
        "rollout_is": "token",
        "rollout_is_threshold": None,
        "rollout_rs": None,
        "loss_type": "reinforce",
        "bypass_mode": True,
    },
}


def namespace(config: Mapping[str, Any]) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        **{key: namespace(value) if isinstance(value, dict) else value for key, value in config.items()}
    )


def dataclass_of(config: Mapping[str, Any]) -> Any:
    names = [(key, Any, dataclasses.field(default=None)) for key in config]
    return dataclasses.make_dataclass("Config", names, slots=True, frozen=True)(**config)


FORMS = {"omegaconf": OmegaConf.create, "namespace": namespace, "dataclass": dataclass_of}


def columns(dtype: torch.dtype) -> dict[str, Any]:
    """Multiples of 1/8, so that they are the same numbers in every type."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return (torch.randint(-16, 17, shape, generator=generator) / 8).to(dtype)

    return {
        "token_level_rewards": numbers(6, 4),
        "values": numbers(6, 4),
        "reward_baselines": numbers(6),
        "old_log_probs": -numbers(6, 4).abs(),
        "sum_pi_squared": numbers(6, 4).abs() / 4,
        "index": INDEX,
        "style": [1.0, 0.0, 0.5, 0.0, 1.0, 1.0],
        "truth": np.array([0, 1, 1, 0, 0.25, 0], dtype=object),
    }


def advantages(name: str, dtype: torch.dtype = torch.float64, mask: Any = None, config: Any = None) -> Any:
    return compute_advantages(
        name,
        response_mask=torch.tensor(MASK) if mask is None else mask,
        config=ALGORITHM if config is None else config,
        **columns(dtype),
    )


def policy_loss(mode: str, config: Any) -> tuple[float, torch.Tensor, Mapping[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    old = -torch.rand(6, 4, generator=generator)
    log_prob = (old + 0.4 * torch.randn(6, 4, generator=generator)).requires_grad_()
    loss, metrics = compute_policy_loss(
        mode,
        old_log_prob=old,
        log_prob=log_prob,
        advantages=torch.randn(6, 4, generator=generator),
        response_mask=torch.tensor(MASK),
        loss_agg_mode="seq-mean-token-mean",
        config=config,
    )
    loss.backward()
    assert log_prob.grad is not None
    return loss.item(), log_prob.grad, metrics


def names(function: Any) -> list[str]:
    """Parameters in order; those that are only keywords behind a star, those with a default followed by it."""
    found: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        star = (
            "*" if parameter.kind is parameter.KEYWORD_ONLY else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        )
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        found.append(f"{star}{parameter.name}{default}")
    return found


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            compute_advantages,
            "name *token_level_rewards *response_mask *index=None *values=None *reward_baselines=None "
            "*old_log_probs=None *sum_pi_squared=None *rollout_is_weights=None *config=None **components",
        ),
        (
            compute_policy_loss,
            "mode *old_log_prob *log_prob *advantages *response_mask *loss_agg_mode='token-mean' *config=None "
            "*rollout_is_weights=None",
        ),
        (
            agg_loss,
            "loss_mat loss_mask loss_agg_mode *dp_size=1 *batch_num_tokens=None *global_batch_size=None "
            "*loss_scale_factor=None",
        ),
        (
            compute_value_loss,
            "*vpreds *returns *values *response_mask *cliprange_value=0.5 *loss_agg_mode='token-mean'",
        ),
        (
            compute_online_dpo_loss,
            "policy_chosen_logps policy_rejected_logps reference_chosen_logps reference_rejected_logps beta=0.1 "
            "label_smoothing=0.0 loss_type='sigmoid' reference_free=False",
        ),
        (
            compute_sppo_loss,
            "old_log_prob log_prob rewards response_mask eta=1.0 loss_agg_mode='token-mean'",
        ),
        (kl_penalty, "log_prob ref_log_prob kind"),
        (
            compute_rollout_correction,
            "old_log_prob rollout_log_prob response_mask rollout_is=None rollout_is_threshold=2.0 "
            "rollout_is_batch_normalize=False rollout_rs=None rollout_rs_threshold=None",
        ),
    ],
)
def test_signatures_are_the_promised_ones(function: Any, expected: str):
    assert names(function) == expected.split()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("form", FORMS)
def test_settings_of_an_estimator_may_be_a_mapping_or_an_object(name: str, form: str):
    expected, returns = advantages(name)
    found, found_returns = advantages(name, config=FORMS[form](ALGORITHM))
    assert torch.equal(found, expected)
    assert torch.equal(found_returns, returns)


@pytest.mark.parametrize("mode", LOSSES)
@pytest.mark.parametrize("form", FORMS)
def test_settings_of_a_loss_may_be_mappings_or_objects_on_every_level(mode: str, form: str):
    expected, gradient, metrics = policy_loss(mode, ACTOR)
    found, found_gradient, found_metrics = policy_loss(mode, FORMS[form](ACTOR))
    assert found == expected
    assert torch.equal(found_gradient, gradient)
    assert found_metrics == metrics


def test_settings_that_are_neither_are_refused():
    with pytest.raises(TypeError, match="a configuration is a int"):
        advantages("grpo", config=7)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_masks_may_be_of_any_type(name: str, dtype: torch.dtype):
    expected, _ = advantages(name)
    assert torch.equal(advantages(name, mask=torch.tensor(MASK).to(dtype))[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_precision_is_that_of_the_rewards_and_only_the_result_is_rounded(name: str, dtype: torch.dtype):
    results = advantages(name, dtype)
    for found, expected in zip(results, advantages(name), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    outcome = advantages(name)
    assert (results[0] is results[1]) == (outcome[0] is outcome[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_that_differ_are_no_ties_in_half_precision(dtype: torch.dtype):
    """1 and the number before it: an ulp of bfloat16 is 4 parts in 1,000, which is a difference in reward."""
    rewards = torch.tensor([[1.0], [1.0 - torch.finfo(dtype).eps / 2]], dtype=dtype)
    found, _ = compute_advantages("grpo", token_level_rewards=rewards, response_mask=torch.ones(2, 1), index=[0, 0])
    assert found[0].item() == pytest.approx(0.5**0.5, rel=0.01)
    assert found[1].item() == pytest.approx(-(0.5**0.5), rel=0.01)


@pytest.mark.parametrize("name", ["gae", "gdpo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_one_trained_token_can_not_be_whitened(name: str):
    mask = torch.zeros(6, 4)
    with pytest.raises(ValueError, match="at least two trained tokens"):
        advantages(name, mask=mask)
    mask[1, 2] = 1
    with pytest.raises(ValueError, match="at least two trained tokens"):
        advantages(name, mask=mask)
    mask[1, 3] = 1
    assert advantages(name, mask=mask)[0].isfinite().all()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if not requirements(name).whitens and name != "remax"])
def test_a_batch_without_a_trained_token_has_advantages_of_zero(name: str):
    assert advantages(name, mask=torch.zeros(6, 4))[0].abs().max() == 0


def test_correction_and_sppo_take_their_columns_by_position_too():
    old, rollout, mask = torch.zeros(1, 2), torch.tensor([[0.0, -1.0]]), torch.ones(1, 2)
    weights, kept, _ = compute_rollout_correction(old, rollout, mask, "token", 2.0)
    assert weights is not None
    assert weights.tolist() == [[1.0, 2.0]]
    assert torch.equal(kept, mask)
    loss, ratios, preference = compute_sppo_loss(old, rollout, torch.tensor([0.5]), mask, 2.0)
    assert (loss.item(), ratios.item(), preference.item()) == (pytest.approx(4.0), -1.0, 1.0)
