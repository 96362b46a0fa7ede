"""GMPO: the geometric mean of a sequence's ratios, clipped token by token in log space (arXiv 2507.20673)."""

from __future__ import annotations

import torch

from ..known_gradient import with_gradient
from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics, side
from .settings import Settings

NO_BOUND = 1e4
"""Log-ratios are never so large; infinity times 0 would be no number."""


def _geo_mean(tokens: PolicyTokens, config: Settings) -> Losses:
    """Each token gets its sequence's `-mean(A) exp(mean g)`, so that the mean over tokens is the sequence's loss.

    g = sign(A) min(sign(A) d, sign(A) clamp(d, -low, high)), d the log-ratio: `clip_ratio_low` and `clip_ratio_high`
    bound the log-ratio itself. The sequences' plain mean is the loss, whatever `loss_agg_mode` says.
    `actor/pg_clipfrac`: share of tokens with A > 0 whose log-ratio is out of bounds, `..._lower`: with A < 0.
    """
    sequences, advantages = tokens.sequences, tokens.advantages
    with torch.no_grad():
        log_ratio = tokens.log_ratio()
        gain = log_ratio * (sign := advantages.sign())
        most = side(sign.to(gain.dtype), min(config.clip_ratio_high, NO_BOUND), min(config.clip_ratio_low, NO_BOUND))
        free = torch.le(gain, most, out=torch.empty_like(gain)).mul_(sign.abs())
        held = torch.minimum(gain, most).mul_(sign)
        outside = (log_ratio < -config.clip_ratio_low) | (log_ratio > config.clip_ratio_high)
    taken = with_gradient(tokens.log_prob, held, free)
    counts = sequences.counts() + 1e-8
    losses = -sequences.total(advantages) / counts * (sequences.total(taken) / counts).exp()
    return (
        sequences.spread(losses),
        clip_metrics(log_ratio, outside & (advantages > 0), outside & (advantages < 0)),
    )


geo_mean = PolicyLoss(_geo_mean, scope="sequence", proportional=False, aggregation="row-mean", weighs_sequences=True)
