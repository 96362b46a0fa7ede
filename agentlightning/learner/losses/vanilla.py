"""PPO's clipped surrogate (arXiv 1707.06347) with bounds of their own (DAPO, arXiv 2503.14476) and dual clip
(arXiv 1912.09729)."""

from __future__ import annotations

from agentlightning.types import ConfigError

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics, clipped_ratio
from .settings import Settings


def _vanilla(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `max(-A r, -A clip(r, 1 - low, 1 + high))`, and at most `-A c` where A < 0.

    Reads `clip_ratio_low`, `clip_ratio_high`, `clip_ratio_c`.

    Raises:
        ConfigError: `clip_ratio_c` is not above 1.
    """
    dual = config.clip_ratio_c
    if dual <= 1.0:
        raise ConfigError(f"`clip_ratio_c` is {dual}; the dual clip needs a number above 1, such as 3.0")
    log_ratio = tokens.clamped_log_ratio()
    ratio = log_ratio.exp()
    held, clipped = clipped_ratio(ratio, tokens.advantages, config, dual=dual)
    return -tokens.advantages * held, clip_metrics(log_ratio, clipped, (ratio > dual) & (tokens.advantages < 0))


vanilla = PolicyLoss(_vanilla)
