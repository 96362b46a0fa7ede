"""GPG: the plain policy gradient (arXiv 2504.02546)."""

from __future__ import annotations

from .base import Losses, PolicyLoss, PolicyTokens
from .settings import Settings


def _gpg(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-A log pi`: no ratio, no clip, no metrics."""
    return -tokens.advantages * tokens.log_prob, {}


gpg = PolicyLoss(_gpg)
