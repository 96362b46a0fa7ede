"""SPPO: self-play preference optimisation (arXiv 2405.00675)."""

from __future__ import annotations

import math

import torch

from agentlightning.types import ConfigError

from .aggregation import AGG_MODES, as_mask


def compute_sppo_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    rewards: torch.Tensor,
    response_mask: torch.Tensor,
    eta: float = 1.0,
    loss_agg_mode: str = "token-mean",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The squared distance of each sequence's log-ratio from its reward: `(sum_t (log pi - log pi_old) - eta r)^2`.

    Args:
        old_log_prob, log_prob: (B, T); only `log_prob` gets a gradient.
        rewards: (B,) of each sequence, with the baseline subtracted (see `softmean`).
        response_mask: (B, T) 1 where the token is trained.
        eta: Scale of the reward.
        loss_agg_mode: See `sppo_aggregate`.

    Returns:
        The loss; (B,) log-ratios of the sequences; (B,) preferences `eta r`.

    Raises:
        ConfigError: unknown `loss_agg_mode`.
        ValueError: `rewards` does not hold one number a row.
    """
    mask = as_mask(response_mask)
    if rewards.shape != mask.shape[:1]:
        raise ValueError(f"`rewards` is {tuple(rewards.shape)}; it must hold one number for each of {len(mask)} rows")
    log_ratios = torch.where(mask, log_prob - old_log_prob.detach(), 0.0).sum(-1)
    preference = eta * rewards.detach()
    losses = (log_ratios - preference).square()
    return sppo_aggregate(losses, mask.sum(-1), loss_agg_mode, mask.shape[-1]), log_ratios, preference


def sppo_aggregate(
    losses: torch.Tensor, counts: torch.Tensor, loss_agg_mode: str, loss_scale_factor: float
) -> torch.Tensor:
    """The loss of a batch from (B,) losses of sequences, each a square that belongs to the sequence as a whole.

    `token-mean`, `seq-mean-token-sum` and `per-rollout-mean`: the mean over the sequences that have a trained token
    (what SPPO is; the recipe in verl has only that, and calls it `token-mean`). `token-sum`: their sum.
    `seq-mean-token-mean`: each first divided by its number of tokens; `seq-mean-token-sum-norm`: by
    `loss_scale_factor`.

    Raises:
        ConfigError: unknown `loss_agg_mode`.
    """
    if loss_agg_mode not in AGG_MODES:
        raise ConfigError(f"`loss_agg_mode` {loss_agg_mode!r} is not one of {', '.join(AGG_MODES)}")
    real = counts > 0
    losses = torch.where(real, losses, 0.0)
    if loss_agg_mode == "token-sum":
        return losses.sum()
    if loss_agg_mode == "seq-mean-token-mean":
        losses = losses / counts.clamp(min=1)
    elif loss_agg_mode == "seq-mean-token-sum-norm":
        losses = losses / loss_scale_factor
    return losses.sum() / (real.sum() + 1e-8)


def softmean(x: torch.Tensor, beta: float) -> torch.Tensor:
    """The baseline of SPPO's rewards: `log(mean(exp(beta x))) / beta` over all of `x`; the mean where `beta` is 0.

    With growing `beta` it goes from the mean to the maximum.
    """
    if beta == 0:
        return x.mean()
    return (torch.logsumexp(beta * x.flatten(), 0) - math.log(x.numel())) / beta
