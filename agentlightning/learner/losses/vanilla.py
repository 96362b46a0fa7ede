"""PPO's clipped surrogate (arXiv 1707.06347) with bounds of their own (DAPO, arXiv 2503.14476) and dual clip
(arXiv 1912.09729)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

MAX_LOG_RATIO = 20.0
"""The log-ratio is clamped to this before `exp`, as in verl: beyond it the clip is active anyway."""


def vanilla(
    log_prob: torch.Tensor, old_log_prob: torch.Tensor, advantages: torch.Tensor, config: Mapping[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Per token `max(-A r, -A clip(r, 1 - low, 1 + high))`, and at most `-A c` where A < 0.

    Args:
        log_prob, old_log_prob, advantages: Same shape, one number per token.
        config: `clip_ratio_low`, `clip_ratio_high` (each falls back to `clip_ratio`, then 0.2), `clip_ratio_c` (3.0).

    Returns:
        Losses, and per token `actor/ppo_kl`, `actor/pg_clipfrac`, `actor/pg_clipfrac_lower`.

    Raises:
        ValueError: `clip_ratio_c` is not above 1.
    """
    base = config.get("clip_ratio", 0.2)
    low, high = config.get("clip_ratio_low", base), config.get("clip_ratio_high", base)
    dual = config.get("clip_ratio_c", 3.0)
    if dual <= 1.0:
        raise ValueError(f"`clip_ratio_c` must be above 1, got {dual}")
    log_ratio = (log_prob - old_log_prob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - low, 1.0 + high)
    upper = torch.maximum(plain, clipped)
    bound = -advantages * dual
    negative = advantages < 0
    loss = torch.where(negative, torch.minimum(upper, bound), upper)
    return loss, {
        "actor/ppo_kl": -log_ratio.detach(),
        "actor/pg_clipfrac": (clipped > plain).float(),
        "actor/pg_clipfrac_lower": ((upper > bound) & negative).float(),
    }
