"""KL-Cov: a penalty on the tokens that drive entropy down most (The Entropy Mechanism, arXiv 2505.22617)."""

from __future__ import annotations

import torch

from .base import Losses, PolicyLoss, PolicyTokens
from .clip_cov import covariances, number_of
from .settings import Settings


def _kl_cov(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-A r`, plus `ppo_kl_coef |log pi - log pi_old|` on the chosen ones. No clipping.

    Reads `policy_loss.ppo_kl_coef`. `actor/ppo_kl` is the mean absolute log-ratio.
    """
    assert tokens.chosen is not None
    log_ratio = tokens.log_ratio()
    distance = log_ratio.abs()
    losses = distance * config.policy_loss.ppo_kl_coef * tokens.chosen - tokens.advantages * log_ratio.exp()
    nothing = losses.new_zeros(())
    return losses, {
        "actor/ppo_kl": distance.detach(),
        "actor/pg_clipfrac": nothing,
        "actor/pg_clipfrac_lower": nothing,
    }


def _choose(tokens: PolicyTokens, config: Settings) -> torch.Tensor:
    """The `max(1, int(kl_cov_ratio N))` tokens of the mini-batch with the largest (A - mean A)(log pi - mean log pi).

    verl takes them from one micro-batch.
    """
    cov = covariances(tokens)
    return cov.topk(min(number_of(len(cov), config, "kl_cov_ratio"), len(cov))).indices


kl_cov = PolicyLoss(_kl_cov, scope="batch", proportional=False, choose=_choose)
