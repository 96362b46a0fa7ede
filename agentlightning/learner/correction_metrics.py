"""What rollout correction reports: how far the sampler is from the learner, and what weights and rejection did.

Called by `correction`. Names are verl's, without their prefix `rollout_corr/`. Sequences without a trained token count
nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Metrics = dict[str, torch.Tensor | float]

MAX_LOG_RATIO = 20.0
"""Log-ratios, sums of them included, are clamped to this before `exp`."""

_ROWS = 64
"""Rows looked at at a time: a temporary tensor for all of them would cost as much as what is looked at."""


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


def row_counts(mask_BT: torch.Tensor) -> torch.Tensor:
    """(B,) how many are set."""
    return torch.cat([part.sum(-1) for part in mask_BT.split(_ROWS)])


def row_sums(
    values_BT: torch.Tensor, mask_BT: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor] = _same
) -> torch.Tensor:
    """(B,) sums of `of(values)` where the mask is; what the values hold elsewhere is ignored, NaN included."""
    parts = zip(values_BT.split(_ROWS), mask_BT.split(_ROWS), strict=True)
    return torch.cat([torch.where(mask, of(values), 0.0).sum(-1) for values, mask in parts])


def masked_mean(
    values: torch.Tensor, mask: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor] = _same
) -> torch.Tensor:
    """The mean of `of(values)`, (B, T) or (B,), where the mask is; 0 where it is nowhere."""
    sums = row_sums(values, mask, of) if values.dim() == 2 else torch.where(mask, of(values), 0.0)
    return sums.sum() / torch.count_nonzero(mask).clamp(min=1)


def mismatch_metrics(
    old_log_prob: torch.Tensor, rollout_log_prob: torch.Tensor, log_ratio: torch.Tensor, mask: torch.Tensor
) -> Metrics:
    """Perplexities, KL and chi-squared from (B, T) log-probs and their difference, learner minus sampler.

    `kl` and `k3_kl` estimate KL(sampler, learner) from the sampled tokens; `chi2_token` is `mean rho^2 - 1` over
    tokens, `chi2_seq` the same over sequences with the product of their ratios. Perplexities are means over sequences.
    """
    counts = row_counts(mask)
    real = counts > 0
    training, rollout = (
        -row_sums(log_probs, mask) / counts.clamp(min=1) for log_probs in (old_log_prob, rollout_log_prob)
    )
    gap = training - rollout
    of_sequence = log_ratio.sum(-1)
    return {
        "training_ppl": masked_mean(training.exp(), real),
        "training_log_ppl": masked_mean(training, real),
        "rollout_ppl": masked_mean(rollout.exp(), real),
        "rollout_log_ppl": masked_mean(rollout, real),
        "kl": -masked_mean(log_ratio, mask),
        "k3_kl": masked_mean(log_ratio, mask, lambda values: values.expm1() - values),
        "log_ppl_diff": masked_mean(gap, real),
        "log_ppl_abs_diff": masked_mean(gap.abs(), real),
        "log_ppl_diff_max": _extreme(gap, real, largest=True),
        "log_ppl_diff_min": _extreme(gap, real, largest=False),
        "ppl_ratio": masked_mean(gap.exp(), real),
        "chi2_token": masked_mean(log_ratio, mask, _squared_ratio) - 1.0,
        "chi2_seq": masked_mean(of_sequence, real, _squared_ratio) - 1.0,
    }


def _squared_ratio(log_ratio: torch.Tensor) -> torch.Tensor:
    return (2.0 * log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).exp()


def weight_metrics(
    log_ratio: torch.Tensor,
    ratio: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor,
    low: float | None,
    high: float,
) -> Metrics:
    """Of importance weights, before they are divided by their mean.

    `mean`, `std`, the effective sample size (a share of the tokens, 0 if all weights are) and `seq_*`, over the means
    of sequences, describe the weights after truncation or the band; the fractions the ratios before, which count as
    high above the upper bound and as low below the lower one, for truncation 1 / upper bound. As in verl, weights by
    sequence have `max`, `min` and `ratio_fraction_*` over the sequences' ratios, `max` and `min` before truncation.

    Args:
        log_ratio: (B, T) of tokens, or (B,) sums of sequences.
        ratio, weights: (B, T) what became of it, 0 where the mask is.
        mask: (B, T) bool.
        low, high: Bounds; without `low` weights are cut.
    """
    bottom = 1.0 / high if low is None else low
    counts = row_counts(mask)
    real = counts > 0
    of_sequence, raw_of_sequence = (values.sum(-1) / counts.clamp(min=1) for values in (weights, ratio))
    mean, squares = masked_mean(weights, mask), masked_mean(weights, mask, torch.square)
    variance = masked_mean(weights, mask, lambda values: (values - mean).square())
    if log_ratio.dim() == 1:
        extremes, measured, among = log_ratio.clamp(max=MAX_LOG_RATIO).exp(), log_ratio.exp(), real
    else:
        extremes, measured, among = weights, ratio, mask
    metrics: Metrics = {
        "rollout_is_mean": mean,
        "rollout_is_std": variance.sqrt(),
        "rollout_is_max": _extreme(extremes, among, largest=True),
        "rollout_is_min": _extreme(extremes, among, largest=False),
        "rollout_is_eff_sample_size": torch.where(squares > 0, (mean + 1e-8).square() / squares, 0.0),
        "rollout_is_ratio_fraction_high": share(measured > high, among),
        "rollout_is_ratio_fraction_low": share(measured < bottom, among),
        **_moments("rollout_is_seq", of_sequence, real, centre=1.0),
        "rollout_is_seq_fraction_high": share(raw_of_sequence > high, real),
        "rollout_is_seq_fraction_low": share(raw_of_sequence < bottom, real),
    }
    if low is not None:
        metrics["rollout_is_oob_ratio"] = share((ratio < low) | (ratio > high), mask)
    return metrics


def statistic_metrics(
    name: str, statistic: torch.Tensor, passed: torch.Tensor, mask: torch.Tensor, low: float | None, high: float
) -> Metrics:
    """Of one way to reject.

    `mean` and `std` are over tokens, each with its sequence's statistic where that is one number a sequence; for `std`
    the statistic is held within the bounds, as in verl. `seq_*` are over sequences, of which a statistic of tokens
    gives the mean.

    Args:
        name: Of the metrics, with the way to reject.
        statistic: (B, T) of tokens, 0 where the mask is, or (B,) of sequences.
        passed: The same shape, what is kept.
        mask: (B, T) bool.
        low, high: Bounds of the statistic; `None`: there is no lower one.
    """
    counts = row_counts(mask)
    real = counts > 0
    by_token = statistic.dim() == 2
    if by_token:
        among, of_token, of_sequence, whole = mask, statistic, statistic.sum(-1) / counts.clamp(min=1), passed | ~mask
    else:
        among, of_token, of_sequence, whole = real, statistic[:, None], statistic, passed[:, None]
    of_token, bottom = of_token.expand(mask.shape), 0.0 if low is None else low
    held = masked_mean(of_token, mask, lambda values: values.clamp(bottom, high))
    variance = masked_mean(of_token, mask, lambda values: (values.clamp(bottom, high) - held).square())
    metrics: Metrics = {
        f"{name}_mean": masked_mean(of_token, mask),
        f"{name}_std": variance.sqrt(),
        f"{name}_max": _extreme(statistic, among, largest=True),
        f"{name}_min": _extreme(statistic, among, largest=False),
        f"{name}_fraction_high": share(statistic > high, among),
        f"{name}_fraction_low": 0.0 if low is None else share(statistic < low, among),
        f"{name}_masked_fraction": share(~whole.expand(mask.shape), mask),
        f"{name}_seq_masked_fraction": share(~whole.all(-1), real),
        **_moments(f"{name}_seq", of_sequence, real, centre=0.0),
        f"{name}_seq_fraction_high": share(of_sequence > high, real),
    }
    if low is not None:
        metrics[f"{name}_seq_fraction_low"] = share(of_sequence < low, real)
    return metrics


def mask_metrics(mask: torch.Tensor, kept: torch.Tensor) -> Metrics:
    """Share of tokens rejected, and of sequences that lost a token."""
    lost = mask & ~kept
    return {
        "rollout_rs_masked_fraction": share(lost, mask),
        "rollout_rs_seq_masked_fraction": share(lost.any(-1), mask.any(-1)),
    }


def share(where: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The share of `mask` that is in `where` too, float64; 0 where there is none."""
    return torch.count_nonzero(where & mask).double() / torch.count_nonzero(mask).clamp(min=1)


def _moments(name: str, values: torch.Tensor, mask: torch.Tensor, *, centre: float) -> Metrics:
    """Of numbers of sequences; `std` is the sample one, 0 of a single sequence."""
    picked = values[mask]
    return {
        f"{name}_mean": masked_mean(values, mask),
        f"{name}_std": picked.std() if len(picked) > 1 else 0.0,
        f"{name}_max": _extreme(values, mask, largest=True),
        f"{name}_min": _extreme(values, mask, largest=False),
        f"{name}_max_deviation": _extreme((values - centre).abs(), mask, largest=True),
    }


def _extreme(values: torch.Tensor, mask: torch.Tensor, *, largest: bool) -> torch.Tensor:
    """The largest or smallest of `values` where `mask`, 0 where there are none."""
    if not mask.any():
        return values.new_zeros(())
    none = -torch.inf if largest else torch.inf
    parts = zip(values.split(_ROWS), mask.split(_ROWS), strict=True)
    found = [torch.where(there, value, none) for value, there in parts]
    return torch.stack([part.amax() if largest else part.amin() for part in found]).aminmax()[int(largest)]
