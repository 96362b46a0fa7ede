"""verl's side of `compare.py`; runs in `.peers/verl`. Its functions are called as its trainer calls them.

Two liberties: `norm_adv_by_std_in_grpo` is handed to every estimator that has such an argument, though verl's trainer
hands it to `grpo` alone; and `reinforce` and `bypass_mode`, which its trainer never reaches, are called directly.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from verl import DataProto
from verl.trainer.config import AlgoConfig, RolloutCorrectionConfig
from verl.trainer.ppo import core_algos, rollout_corr_helper
from verl.trainer.ppo.ray_trainer import apply_kl_penalty
from verl.workers.config import ActorConfig, PolicyLossConfig
from worker import Results, serve

Columns = dict[str, Any]


def advantages(name: str, columns: Columns, config: dict[str, Any], weights: bool = False) -> Results:
    function = core_algos.get_adv_estimator_fn(name)
    takes = inspect.signature(function).parameters
    given: dict[str, Any] = {
        "token_level_rewards": columns["token_level_rewards"],
        "response_mask": columns["response_mask"],
        "index": np.array(columns["index"], dtype=object),
        "values": columns["values"],
        "reward_baselines": columns["reward_baselines"],
        "old_log_probs": columns["old_log_prob"],
        "sum_pi_squared": columns["sum_pi_squared"],
        "rollout_is_weights": columns["rollout_is_weights"] if weights else None,
        "config": AlgoConfig(**{key: value for key, value in config.items() if key != "handle_zero_tail"}),
        **config,
    }
    if name == "gdpo":
        given |= _components(columns)
    found, returns = function(**{key: value for key, value in given.items() if key in takes})
    return {"advantages": found, "returns": returns}


def _components(columns: Columns) -> dict[str, Any]:
    """As the trainer's batch holds them: a number a row, put on the row's last token by its attention mask."""
    mask = columns["response_mask"]
    batch = {"prompts": mask.new_zeros(len(mask), 1), "attention_mask": mask.new_ones(len(mask), mask.shape[1] + 1)}
    return {"non_tensor_batch": {name: columns[name].numpy() for name in ("style", "truth")}, "batch": batch}


def policy(
    mode: str,
    columns: Columns,
    loss_agg_mode: str,
    config: dict[str, Any],
    weights: bool,
    correction: dict[str, Any] | None,
) -> Results:
    of_loss = dict(config["policy_loss"])
    if correction is not None:
        of_loss["rollout_correction"] = RolloutCorrectionConfig(**correction)
    settings = {key: value for key, value in config.items() if key not in ("policy_loss", "global_batch_info")}
    actor = ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(**of_loss),
        global_batch_info=config["global_batch_info"],
        **settings,
    )
    log_prob = columns["log_prob"].detach().requires_grad_()
    reinforce = mode == "reinforce"
    function = core_algos.compute_policy_loss_reinforce if reinforce else core_algos.get_policy_loss_fn(mode)
    loss, metrics = function(
        **{"rollout_log_prob" if reinforce else "old_log_prob": columns["old_log_prob"]},
        log_prob=log_prob,
        advantages=columns["advantages"],
        response_mask=columns["response_mask"].bool(),
        loss_agg_mode=loss_agg_mode,
        config=actor,
        rollout_is_weights=columns["rollout_is_weights"] if weights else None,
    )
    loss.backward()
    return {"loss": loss.detach(), "gradient": log_prob.grad, **metrics}


def aggregation(columns: Columns, loss_agg_mode: str, **totals: Any) -> Results:
    losses = columns["loss_mat"].detach().requires_grad_()
    loss = core_algos.agg_loss(losses, columns["response_mask"].bool(), loss_agg_mode, **totals)
    loss.backward()
    return {"loss": loss.detach(), "gradient": losses.grad}


def value(columns: Columns, loss_agg_mode: str, cliprange_value: float) -> Results:
    vpreds = columns["vpreds"].detach().requires_grad_()
    loss, clipfrac = core_algos.compute_value_loss(
        vpreds=vpreds,
        returns=columns["returns"],
        values=columns["values"],
        response_mask=columns["response_mask"].bool(),
        cliprange_value=cliprange_value,
        loss_agg_mode=loss_agg_mode,
    )
    loss.backward()
    return {"loss": loss.detach(), "clipfrac": clipfrac, "gradient": vpreds.grad}


def kl(columns: Columns, kind: str) -> Results:
    log_prob = columns["log_prob"].detach().requires_grad_()
    penalty = core_algos.kl_penalty(log_prob, columns["ref_log_prob"], kind)
    penalty.sum().backward()
    return {"penalty": penalty.detach(), "gradient": log_prob.grad}


def kl_in_reward(columns: Columns, kind: str, control: str) -> Results:
    controller = {
        "fixed": core_algos.FixedKLController(0.1),
        "adaptive": core_algos.AdaptiveKLController(0.1, target_kl=0.05, horizon=100),
    }[control]
    tensors = {
        "token_level_scores": columns["token_level_rewards"],
        "old_log_probs": columns["old_log_prob"],
        "ref_log_prob": columns["ref_log_prob"],
        "response_mask": columns["response_mask"],
    }
    data, metrics = apply_kl_penalty(DataProto.from_dict(tensors=tensors), controller, kind)
    current = metrics["actor/reward_kl_penalty"]
    return {"rewards": data.batch["token_level_rewards"], "kl": current, "coefficient": float(controller.value)}


def correction(columns: Columns, options: dict[str, Any]) -> Results:
    weights, mask, metrics = rollout_corr_helper.compute_rollout_correction_and_rejection_mask(
        old_log_prob=columns["old_log_prob"],
        rollout_log_prob=columns["rollout_log_prob"],
        response_mask=columns["response_mask"],
        **options,
    )
    return {"weights": None if weights is None else weights.batch["rollout_is_weights"], "mask": mask, **metrics}


CALLS = {
    "advantages": advantages,
    "policy": policy,
    "aggregation": aggregation,
    "value": value,
    "kl": kl,
    "kl_in_reward": kl_in_reward,
    "correction": correction,
}

if __name__ == "__main__":
    serve(CALLS)
