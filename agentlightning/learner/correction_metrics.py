"""What rollout correction reports: how far the sampler is from the learner, and what weights and rejection did.

Called by `correction`. Names are verl's, without their prefix `rollout_corr/`. Sequences without a trained token count
nowhere.
"""

from __future__ import annotations

import torch

Metrics = dict[str, torch.Tensor | float]


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` where `mask`, 0 where there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def mismatch_metrics(
    old_log_prob: torch.Tensor, rollout_log_prob: torch.Tensor, log_ratio: torch.Tensor, mask: torch.Tensor
) -> Metrics:
    """Perplexities, KL and chi-squared from (B, T) log-probs and their difference, learner minus sampler.

    `kl` and `k3_kl` estimate KL(sampler, learner) from the sampled tokens; `chi2_token` is `mean rho^2 - 1` over
    tokens, `chi2_seq` the same over sequences with the product of their ratios. Perplexities are means over sequences.
    """
    counts = mask.sum(-1)
    real = counts > 0
    training, rollout = (
        -torch.where(mask, log_prob, 0.0).sum(-1) / counts.clamp(min=1) for log_prob in (old_log_prob, rollout_log_prob)
    )
    gap = training - rollout
    bounded = log_ratio.clamp(-20.0, 20.0)
    of_sequence = log_ratio.sum(-1).clamp(-20.0, 20.0)
    return {
        "training_ppl": masked_mean(training.exp(), real),
        "training_log_ppl": masked_mean(training, real),
        "rollout_ppl": masked_mean(rollout.exp(), real),
        "rollout_log_ppl": masked_mean(rollout, real),
        "kl": masked_mean(-log_ratio, mask),
        "k3_kl": masked_mean(bounded.exp() - bounded - 1.0, mask),
        "log_ppl_diff": masked_mean(gap, real),
        "log_ppl_abs_diff": masked_mean(gap.abs(), real),
        "log_ppl_diff_max": _extreme(gap, real, largest=True),
        "log_ppl_diff_min": _extreme(gap, real, largest=False),
        "ppl_ratio": masked_mean(gap.exp(), real),
        "chi2_token": masked_mean((2.0 * bounded).exp(), mask) - 1.0,
        "chi2_seq": masked_mean((2.0 * of_sequence).exp(), real) - 1.0,
    }


def weight_metrics(
    ratio: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor, low: float | None, high: float
) -> Metrics:
    """Of (B, T) importance ratios as they came, and of the weights that truncation or the band made of them.

    Ratios count as high above the upper bound and as low below the lower one, which for truncation is 1 / upper bound.
    `seq_*` describe the means over sequences. The effective sample size, a share of the tokens, is that of the
    weights.
    """
    bottom = 1.0 / high if low is None else low
    counts = mask.sum(-1)
    real = counts > 0
    means = ratio.sum(-1) / counts.clamp(min=1)
    normalised = weights / (masked_mean(weights, mask) + 1e-8)
    metrics: Metrics = {
        **_moments("rollout_is", ratio, mask),
        "rollout_is_eff_sample_size": 1.0 / masked_mean(normalised.square(), mask).clamp(min=1e-8),
        "rollout_is_ratio_fraction_high": masked_mean((ratio > high).to(ratio.dtype), mask),
        "rollout_is_ratio_fraction_low": masked_mean((ratio < bottom).to(ratio.dtype), mask),
        **_moments("rollout_is_seq", means, real),
        "rollout_is_seq_max_deviation": _extreme((means - 1.0).abs(), real, largest=True),
        "rollout_is_seq_fraction_high": masked_mean((means > high).to(ratio.dtype), real),
        "rollout_is_seq_fraction_low": masked_mean((means < bottom).to(ratio.dtype), real),
    }
    if low is not None:
        metrics["rollout_is_oob_ratio"] = masked_mean(((ratio < low) | (ratio > high)).to(ratio.dtype), mask)
    return metrics


def statistic_metrics(
    name: str, statistic: torch.Tensor, real: torch.Tensor, low: float | None, high: float
) -> Metrics:
    """Of one rejection option: its statistic over tokens (B, T), with means of sequences, or over sequences (B,)."""
    metrics = {**_moments(name, statistic, real), **_fractions(name, statistic, real, low, high)}
    if statistic.dim() == 2:
        counts = real.sum(-1)
        means = statistic.sum(-1) / counts.clamp(min=1)
        metrics |= _moments(f"{name}_seq", means, counts > 0) | _fractions(f"{name}_seq", means, counts > 0, low, high)
    return metrics


def mask_metrics(mask: torch.Tensor, kept: torch.Tensor) -> Metrics:
    """Share of tokens rejected, and of sequences that lost a token."""
    lost = mask & ~kept
    return {
        "rollout_rs_masked_fraction": masked_mean(lost.double(), mask),
        "rollout_rs_seq_masked_fraction": masked_mean(lost.any(-1).double(), mask.any(-1)),
    }


def _moments(name: str, values: torch.Tensor, mask: torch.Tensor) -> Metrics:
    mean = masked_mean(values, mask)
    return {
        f"{name}_mean": mean,
        f"{name}_std": masked_mean((values - mean).square(), mask).sqrt(),
        f"{name}_max": _extreme(values, mask, largest=True),
        f"{name}_min": _extreme(values, mask, largest=False),
    }


def _fractions(name: str, values: torch.Tensor, mask: torch.Tensor, low: float | None, high: float) -> Metrics:
    metrics: Metrics = {f"{name}_fraction_high": masked_mean((values > high).to(values.dtype), mask)}
    if low is not None:
        metrics[f"{name}_fraction_low"] = masked_mean((values < low).to(values.dtype), mask)
    return metrics


def _extreme(values: torch.Tensor, mask: torch.Tensor, *, largest: bool) -> torch.Tensor:
    """The largest or smallest of `values` where `mask`, 0 where there are none."""
    picked = values[mask]
    if len(picked) == 0:
        return values.new_zeros(())
    return picked.max() if largest else picked.min()
