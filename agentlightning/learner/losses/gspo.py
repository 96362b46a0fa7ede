"""GSPO: one importance ratio a sequence (arXiv 2507.18071), with the gradient of its token form."""

from __future__ import annotations

import torch

from ..known_gradient import with_gradient
from .base import Losses, PolicyLoss, PolicyTokens
from .settings import Settings

MAX_LOG_RATIO = 10.0
"""Bound of the sequence's mean log-ratio before `exp`, as in verl."""


def _gspo(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `max(-A s, -A clip(s, 1 - low, 1 + high))`, s = exp(mean log-ratio of the sequence).

    The value of s is the sequence's; its gradient is `s` times that of the token's own log-prob, so a token moves by
    its own advantage. There is no dual clip. The paper's bounds are 3e-4 and 4e-4, its aggregation is
    `seq-mean-token-mean`; as in verl the settings are used as they stand. In training a sequence is a whole rollout of
    the mini-batch; verl sees the rows of a micro-batch.

    Reads `clip_ratio_low`, `clip_ratio_high`.
    """
    sequences = tokens.sequences
    low, high = 1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high
    with torch.no_grad():
        total = sequences.total(tokens.log_ratio())
        mean = total / sequences.counts().clamp(min=1)
        ratio = mean.clamp(max=MAX_LOG_RATIO).exp()
        plain, held = (tokens.advantages * sequences.spread(-each) for each in (ratio, ratio.clamp(low, high)))
        clipped = held > plain
        moves = ratio * (mean <= MAX_LOG_RATIO)
        slope = (tokens.advantages * sequences.spread(-moves)).mul_(~clipped)
        value = torch.maximum(plain, held, out=held)
    losses = with_gradient(tokens.log_prob, value, slope)
    nothing = total.new_zeros(())
    return losses, {"actor/ppo_kl": -total.sum(), "actor/pg_clipfrac": clipped, "actor/pg_clipfrac_lower": nothing}


gspo = PolicyLoss(_gspo, scope="sequence", proportional=False)
