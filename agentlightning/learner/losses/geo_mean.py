"""GMPO: the geometric mean of a sequence's ratios, clipped token by token in log space (arXiv 2507.20673)."""

from __future__ import annotations

import torch

from .base import Losses, PolicyLoss, PolicyTokens, clip_metrics
from .settings import Settings


def _geo_mean(tokens: PolicyTokens, config: Settings) -> Losses:
    """Each token gets its sequence's `-mean(A) exp(mean g)`, so that the mean over tokens is the sequence's loss.

    g = sign(A) min(sign(A) d, sign(A) clamp(d, -low, high)), d the log-ratio: `clip_ratio_low` and `clip_ratio_high`
    bound the log-ratio itself. The sequences' plain mean is the loss, whatever `loss_agg_mode` says.
    `actor/pg_clipfrac`: share of tokens with A > 0 whose log-ratio is out of bounds, `..._lower`: with A < 0.
    """
    sequences, advantages = tokens.sequences, tokens.advantages
    low, high = -config.clip_ratio_low, config.clip_ratio_high
    log_ratio = tokens.log_ratio()
    with torch.no_grad():
        negative, positive = advantages < 0, advantages > 0
        held = torch.where(negative, log_ratio.clamp(min=low), log_ratio.clamp(max=high) * positive)
        below, above = log_ratio < low, log_ratio > high
        free = (held == log_ratio) & (negative | positive)
    taken = torch.where(free, log_ratio, held)  # one `where`, as in `base.clipped_ratio`
    counts = sequences.counts() + 1e-8
    losses = -sequences.total(advantages) / counts * (sequences.total(taken) / counts).exp()
    outside = below | above
    return sequences.spread(losses), clip_metrics(log_ratio, outside & positive, outside & negative)


geo_mean = PolicyLoss(_geo_mean, scope="sequence", proportional=False, aggregation="row-mean", weighs_sequences=True)
