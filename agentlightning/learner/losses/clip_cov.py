"""Clip-Cov: no gradient for a few tokens that drive entropy down (The Entropy Mechanism, arXiv 2505.22617)."""

from __future__ import annotations

import torch

from agentlightning.types import ConfigError

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics, clipped_ratio
from .settings import Settings


def _clip_cov(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token PPO's `max(-A r, -A clip(r))`, zero on the chosen tokens. No dual clip, r is not clamped.

    Reads `clip_ratio_low`, `clip_ratio_high`. `actor/pg_clipfrac`: share of tokens chosen.
    """
    assert tokens.chosen is not None
    log_ratio = tokens.log_ratio()
    held, _ = clipped_ratio(log_ratio.exp(), tokens.advantages, config)
    return -tokens.advantages * held * ~tokens.chosen, clip_metrics(log_ratio, tokens.chosen)


def _choose(tokens: PolicyTokens, config: Settings) -> torch.Tensor:
    """`max(int(clip_cov_ratio N), 1)` tokens at random among those with lb < cov < ub that PPO does not clip.

    cov = (A - mean A) (log pi - mean log pi), means over the mini-batch. verl takes means, number and choice from one
    micro-batch, so that there the outcome depends on how the mini-batch was split. Reads `policy_loss.clip_cov_ratio`,
    `clip_cov_lb` and `clip_cov_ub`, and `seed`; without one torch's CPU generator draws.
    """
    settings = config.policy_loss
    cov = covariances(tokens)
    candidates = ((cov > settings.clip_cov_lb) & (cov < settings.clip_cov_ub)).nonzero()[:, 0]
    _, clipped = clipped_ratio(tokens.log_ratio()[candidates].exp(), tokens.advantages[candidates], config)
    candidates = candidates[~clipped]
    number = number_of(len(cov), config, "clip_cov_ratio")
    seed = config.get("seed")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return candidates[torch.randperm(len(candidates), generator=generator)[:number].to(candidates.device)]


def number_of(tokens: int, config: Settings, share: str) -> int:
    """How many of all trained tokens `policy_loss.<share>` asks for: at least one, as in verl.

    Raises:
        ConfigError: it is no share.
    """
    value = config.policy_loss[share]
    if not 0 <= value <= 1:
        raise ConfigError(f"`policy_loss.{share}` is {value}; it must be a share of the tokens, from 0 to 1")
    return max(int(value * tokens), 1)


def covariances(tokens: PolicyTokens) -> torch.Tensor:
    """(N,) each token's part of the covariance of advantage and log-prob over all tokens."""
    log_prob = tokens.log_prob.detach()
    return (tokens.advantages - tokens.advantages.mean()) * (log_prob - log_prob.mean())


clip_cov = PolicyLoss(_clip_cov, scope="batch", proportional=False, choose=_choose)
