"""SAPO: a soft gate instead of a clip (arXiv 2511.20347)."""

from __future__ import annotations

import torch

from ..known_gradient import with_gradient
from .base import MAX_LOG_RATIO, Losses, PolicyLoss, PolicyTokens, clip_metrics, side
from .settings import Settings


def _sapo(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-A (4 / tau) sigmoid(tau (r - 1))`, tau = `tau_pos` where A > 0, else `tau_neg`.

    At r = 1 the gradient is that of `-A r`, and it fades on both sides. Always aggregated as `seq-mean-token-mean`.
    """
    with torch.no_grad():
        dtype = torch.promote_types(tokens.log_prob.dtype, tokens.advantages.dtype)
        advantages, free = tokens.advantages.to(dtype), tokens.log_ratio().to(dtype)
        log_ratio = free.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        inside = torch.eq(free, log_ratio, out=free)
        tau = side(advantages, config.tau_pos, config.tau_neg)
        ratio = log_ratio.exp()
        gate = (ratio - 1.0).mul_(tau).sigmoid_()
        scale = advantages * -4.0
        # The slope of the gate is `gate (1 - gate) tau`, that of the ratio the ratio; none where it is clamped.
        slope = torch.addcmul(gate, gate, gate, value=-1).mul_(ratio).mul_(scale).mul_(inside)
        value = gate.mul_(scale).div_(tau)
    return with_gradient(tokens.log_prob, value, slope), clip_metrics(log_ratio)


sapo = PolicyLoss(_sapo, aggregation="seq-mean-token-mean")
