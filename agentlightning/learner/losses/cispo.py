"""CISPO: clips the importance weight, never the gradient (MiniMax-M1, arXiv 2506.13585)."""

from __future__ import annotations

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics
from .settings import Settings


def _cispo(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-sg(clip(r, 1 - low, 1 + high)) A log pi`; sg: no gradient.

    Reads `clip_ratio_low`, `clip_ratio_high`. `actor/pg_clipfrac`: share of ratios outside the bounds.
    """
    log_ratio = tokens.clamped_log_ratio().detach()
    ratio = log_ratio.exp()
    weight = ratio.clamp(1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high)
    return -weight * tokens.advantages * tokens.log_prob, clip_metrics(log_ratio, ratio != weight)


cispo = PolicyLoss(_cispo)
