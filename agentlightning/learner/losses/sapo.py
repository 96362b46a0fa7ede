"""SAPO: a soft gate instead of a clip (arXiv 2511.20347)."""

from __future__ import annotations

import torch

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics
from .settings import Settings


def _sapo(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-A (4 / tau) sigmoid(tau (r - 1))`, tau = `tau_pos` where A > 0, else `tau_neg`.

    At r = 1 the gradient is that of `-A r`, and it fades on both sides. Always aggregated as `seq-mean-token-mean`.
    """
    log_ratio = tokens.clamped_log_ratio()
    tau_pos, tau_neg = log_ratio.new_tensor(config.tau_pos), log_ratio.new_tensor(config.tau_neg)
    tau = torch.where(tokens.advantages > 0, tau_pos, tau_neg)
    gate = torch.sigmoid(tau * (log_ratio.exp() - 1.0)) * (4.0 / tau)
    return -tokens.advantages * gate, clip_metrics(log_ratio)


sapo = PolicyLoss(_sapo, aggregation="seq-mean-token-mean")
