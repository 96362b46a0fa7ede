"""The loss of verl's rollout correction in bypass mode: what sampled stands in for the old policy."""

from __future__ import annotations

from typing import Any

import torch

from agentlightning.types import ConfigError

from ..correction import compute_rollout_correction
from .padded import evaluate_padded
from .reinforce import reinforce
from .settings import Settings
from .vanilla import vanilla

_LOSSES = {"ppo_clip": vanilla, "reinforce": reinforce}


def bypass(
    *,
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: Settings,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Importance weights and rejection from the present policy against the sampler, at every evaluation.

    `rollout_correction.loss_type` is `ppo_clip` (the default: `vanilla` on the tokens that rejection leaves, whose
    ratio corrects already, so without importance weights) or `reinforce` (`-A log pi` times the importance weights).

    Args:
        old_log_prob: (B, T) log-probs that the sampler recorded.
        log_prob: (B, T) of the policy in training.
        advantages, response_mask: (B, T).
        loss_agg_mode: See `agg_loss`. Without totals in `config.global_batch_info` the tokens left are counted.
        config: Reads `rollout_correction` and what the loss reads.
        rollout_is_weights: Not used: the weights are worked out here.

    Raises:
        ConfigError: unknown `loss_type`, or a setting that `compute_rollout_correction` refuses.
    """
    correction: dict[str, Any] = dict(config.rollout_correction)
    kind = correction.pop("loss_type", None) or "ppo_clip"
    correction.pop("bypass_mode", None)
    if kind not in _LOSSES:
        raise ConfigError(f"`rollout_correction.loss_type` {kind!r} is not one of {', '.join(_LOSSES)}")
    weights, mask, metrics = compute_rollout_correction(
        old_log_prob=log_prob.detach(), rollout_log_prob=old_log_prob, response_mask=response_mask, **correction
    )
    loss, own = evaluate_padded(
        _LOSSES[kind],
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode=loss_agg_mode,
        config=config,
        rollout_is_weights=weights if kind == "reinforce" else None,
    )
    return loss, {**own, **metrics}
