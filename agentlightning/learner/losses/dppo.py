"""DPPO: a trust region on the divergence at each token instead of on the ratio (arXiv 2602.04879).

Per token `-A sg(min(r, c)) log pi M`. M drops tokens that have left the region in the direction of their advantage.
With p = pi and q = pi_old of the sampled token:

- `dppo_tv`: A > 0 keeps p - q <= high, else p - q >= -low;
- `dppo_kl`: D = KL of the two-way split (sampled token or not), A > 0 keeps D <= high or p <= q, else D <= low or
  p >= q.

Both read `clip_ratio_low`, `clip_ratio_high`, and c from `clip_ratio_c`. `actor/pg_clipfrac` is the share dropped,
`actor/pg_clipfrac_lower` the share kept with its ratio cut at c.
"""

from __future__ import annotations

import torch

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics
from .settings import Settings


def _dppo_tv(tokens: PolicyTokens, config: Settings) -> Losses:
    gap = tokens.log_prob.detach().exp() - tokens.old_log_prob.exp()
    kept = torch.where(tokens.advantages > 0, gap <= config.clip_ratio_high, gap >= -config.clip_ratio_low)
    return _masked(tokens, kept, config)


def _dppo_kl(tokens: PolicyTokens, config: Settings) -> Losses:
    log_prob, old = tokens.log_prob.detach(), tokens.old_log_prob
    p, q = log_prob.exp(), old.exp()
    divergence = q * (old - log_prob) + (1.0 - q) * ((1.0 - q + 1e-8) / (1.0 - p + 1e-8)).log()
    kept = torch.where(
        tokens.advantages > 0,
        (divergence <= config.clip_ratio_high) | (p <= q),
        (divergence <= config.clip_ratio_low) | (p >= q),
    )
    return _masked(tokens, kept, config)


def _masked(tokens: PolicyTokens, kept: torch.Tensor, config: Settings) -> Losses:
    log_ratio = tokens.clamped_log_ratio().detach()
    ratio, most = log_ratio.exp(), config.clip_ratio_c
    losses = -tokens.advantages * ratio.clamp(max=most) * kept * tokens.log_prob
    return losses, clip_metrics(log_ratio, ~kept, (ratio > most) & kept)


dppo_tv = PolicyLoss(_dppo_tv)
dppo_kl = PolicyLoss(_dppo_kl)
