"""Our side of `compare.py`."""

from __future__ import annotations

from typing import Any

from worker import Results, serve

from agentlightning.learner.advantages import compute_advantages
from agentlightning.learner.correction import compute_rollout_correction
from agentlightning.learner.kl import apply_kl_penalty, kl_penalty, make_kl_controller
from agentlightning.learner.losses import agg_loss, compute_policy_loss, compute_value_loss

Columns = dict[str, Any]


def advantages(name: str, columns: Columns, config: dict[str, Any], weights: bool = False) -> Results:
    found, returns = compute_advantages(
        name,
        token_level_rewards=columns["token_level_rewards"],
        response_mask=columns["response_mask"],
        index=columns["index"],
        values=columns["values"],
        reward_baselines=columns["reward_baselines"],
        old_log_probs=columns["old_log_prob"],
        sum_pi_squared=columns["sum_pi_squared"],
        rollout_is_weights=columns["rollout_is_weights"] if weights else None,
        config=config,
        style=columns["style"],
        truth=columns["truth"],
    )
    return {"advantages": found, "returns": returns}


def policy(
    mode: str,
    columns: Columns,
    loss_agg_mode: str,
    config: dict[str, Any],
    weights: bool,
    correction: dict[str, Any] | None,
) -> Results:
    log_prob = columns["log_prob"].detach().requires_grad_()
    loss, metrics = compute_policy_loss(
        mode,
        old_log_prob=columns["old_log_prob"],
        log_prob=log_prob,
        advantages=columns["advantages"],
        response_mask=columns["response_mask"].bool(),
        loss_agg_mode=loss_agg_mode,
        config={**config, "rollout_correction": correction},
        rollout_is_weights=columns["rollout_is_weights"] if weights else None,
    )
    loss.backward()
    return {"loss": loss.detach(), "gradient": log_prob.grad, **metrics}


def aggregation(columns: Columns, loss_agg_mode: str, **totals: Any) -> Results:
    losses = columns["loss_mat"].detach().requires_grad_()
    loss = agg_loss(losses, columns["response_mask"].bool(), loss_agg_mode, **totals)
    loss.backward()
    return {"loss": loss.detach(), "gradient": losses.grad}


def value(columns: Columns, loss_agg_mode: str, cliprange_value: float) -> Results:
    vpreds = columns["vpreds"].detach().requires_grad_()
    loss, clipfrac = compute_value_loss(
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
    penalty = kl_penalty(log_prob, columns["ref_log_prob"], kind)
    penalty.sum().backward()
    return {"penalty": penalty.detach(), "gradient": log_prob.grad}


def kl_in_reward(columns: Columns, kind: str, control: str) -> Results:
    controller = make_kl_controller({"type": control, "kl_coef": 0.1, "target_kl": 0.05, "horizon": 100})
    rewards, current = apply_kl_penalty(
        columns["token_level_rewards"],
        columns["old_log_prob"],
        columns["ref_log_prob"],
        columns["response_mask"],
        kind,
        controller.value,
    )
    controller.update(current, len(rewards))
    return {"rewards": rewards, "kl": current, "coefficient": controller.value}


def correction(columns: Columns, options: dict[str, Any]) -> Results:
    weights, mask, metrics = compute_rollout_correction(
        old_log_prob=columns["old_log_prob"],
        rollout_log_prob=columns["rollout_log_prob"],
        response_mask=columns["response_mask"],
        **options,
    )
    return {"weights": weights, "mask": mask, **metrics}


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
