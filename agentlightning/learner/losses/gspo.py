"""GSPO: one importance ratio a sequence (arXiv 2507.18071), with the gradient of its token form."""

from __future__ import annotations

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics, clipped_ratio
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
    log_ratio = tokens.log_ratio().detach()
    mean = sequences.spread(sequences.total(log_ratio) / sequences.counts().clamp(min=1))
    straight_through = tokens.log_prob - tokens.log_prob.detach() + mean
    held, clipped = clipped_ratio(straight_through.clamp(max=MAX_LOG_RATIO).exp(), tokens.advantages, config)
    return -tokens.advantages * held, clip_metrics(log_ratio, clipped)


gspo = PolicyLoss(_gspo, scope="sequence", proportional=False)
