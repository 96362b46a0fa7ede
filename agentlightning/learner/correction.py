"""Rollout correction: what samples is not quite what is trained, so weigh tokens by importance, or reject some.

The inference engine's log-probs differ from the learner's (other kernels, lower precision, older weights). Called once
a batch by the training loop with the learner's old log-probs, and by the loss `bypass_mode` with the present ones.
Truncation (TIS) caps importance weights, a band (IcePop, arXiv 2510.18855) zeroes those outside it, rejection (MIS)
takes tokens or whole sequences out of the mask. Keys and metric names are verl's `algorithm.rollout_correction.*`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from agentlightning.types import ConfigError

from .correction_metrics import (
    MAX_LOG_RATIO,
    mask_metrics,
    masked_mean,
    mismatch_metrics,
    row_counts,
    row_sums,
    statistic_metrics,
    weight_metrics,
)

RS_OPTIONS = (
    *(f"{level}_{kind}" for level in ("token", "seq_sum", "seq_mean") for kind in ("k1", "k2", "k3")),
    "seq_max_k2",
    "seq_max_k3",
)
"""Ways to reject. With rho = train / rollout probability: k1 = -log rho, k2 = (log rho)^2 / 2, k3 = rho - 1 - log rho;
of each token, or their sum, mean or maximum over a sequence."""


@torch.no_grad()
def compute_rollout_correction(
    old_log_prob: torch.Tensor,
    rollout_log_prob: torch.Tensor,
    response_mask: torch.Tensor,
    rollout_is: str | None = None,
    rollout_is_threshold: float | str = 2.0,
    rollout_is_batch_normalize: bool = False,
    rollout_rs: str | None = None,
    rollout_rs_threshold: float | str | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor, dict[str, float]]:
    """Importance weights and rejection of padded (B, T) tokens, each row a sequence.

    Args:
        old_log_prob: (B, T) log-probs of the tokens by the learner.
        rollout_log_prob: (B, T) by what sampled them.
        response_mask: (B, T) 1 where the token is trained; what stands elsewhere is ignored, NaN included.
        rollout_is: `token`: a weight each, `sequence`: the product over the row; `None`: no weights.
        rollout_is_threshold: A number: larger weights are cut to it. `"lo_hi"`: those outside become 0.
        rollout_is_batch_normalize: Divide the weights by their mean over the tokens, or over the sequences' means.
        rollout_rs: Options of `RS_OPTIONS`, separated by commas; what remains has passed all of them.
        rollout_rs_threshold: One for all options, or one each, separated by commas. For k1 options `"lo_hi"` keeps
            log(lo) <= k1 <= log(hi), and x means 1/x to x; the others keep what is at most x.

    Returns:
        (B, T) weights, 0 where the mask is, or `None`; the (B, T) mask without what was rejected, in its own dtype;
        metrics under `rollout_corr/`, which describe the mismatch even if nothing is corrected.

    Raises:
        ConfigError: unknown option, or a threshold that is missing or out of its range.
        TypeError: a threshold that is neither number nor string.
    """
    mask = response_mask != 0
    log_ratio = (old_log_prob - rollout_log_prob).masked_fill_(~mask, 0.0)
    metrics = mismatch_metrics(old_log_prob, rollout_log_prob, log_ratio, mask)
    weights = None
    if rollout_is is not None:
        weights, more = _weights(log_ratio, mask, rollout_is, rollout_is_threshold, rollout_is_batch_normalize)
        metrics |= more
    if rollout_rs is not None:
        kept, more = _reject(log_ratio, mask, _options(rollout_rs, rollout_rs_threshold))
        response_mask = response_mask * kept
        metrics |= more
    return weights, response_mask, {f"rollout_corr/{name}": float(value) for name, value in metrics.items()}


def _weights(
    log_ratio: torch.Tensor, mask: torch.Tensor, level: str, threshold: float | str, normalize: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    if level not in ("token", "sequence"):
        raise ConfigError(f"`rollout_is` {level!r} is not one of token, sequence; `null` turns weights off")
    low, high = _band(threshold, "rollout_is_threshold")
    of_level = log_ratio if level == "token" else log_ratio.sum(-1)
    ratio = of_level.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp_()
    ratio = ratio.masked_fill_(~mask, 0.0) if level == "token" else torch.where(mask, ratio[:, None], 0.0)
    weights = ratio.clamp(max=high) if low is None else ratio.where((low <= ratio) & (ratio <= high), 0.0)
    metrics = weight_metrics(of_level, ratio, weights, mask, low, high)
    if normalize:
        mean = masked_mean(weights, mask) if level == "token" else _mean_of_rows(weights, mask)
        factor = torch.where(mean > 1e-8, mean, 1.0)
        weights = weights / factor
        metrics["rollout_is_batch_norm_factor"] = factor
    return weights, metrics


def _mean_of_rows(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    counts = row_counts(mask)
    return masked_mean(row_sums(values, mask) / counts.clamp(min=1), counts > 0)


def _reject(
    log_ratio: torch.Tensor, mask: torch.Tensor, options: Sequence[tuple[str, float | None, float]]
) -> tuple[torch.Tensor, dict[str, Any]]:
    kept = mask.clone()
    metrics: dict[str, Any] = {}
    log_rho = log_ratio.clamp_(-MAX_LOG_RATIO, MAX_LOG_RATIO)  # nobody reads it afterwards
    for option, low, high in options:
        level, kind = option.rsplit("_", 1)
        statistic = _statistic(log_rho, mask, level, kind)
        if kind == "k1":
            low, high = math.log(low if low is not None else 1.0 / high), math.log(high)
        passed = statistic <= high
        if low is not None:
            passed &= statistic >= low
        kept &= passed if level == "token" else passed[:, None]
        metrics |= statistic_metrics(f"rollout_rs_{option}", statistic, passed, mask, low, high)
    return kept, metrics | mask_metrics(mask, kept)


def _statistic(log_rho: torch.Tensor, mask: torch.Tensor, level: str, kind: str) -> torch.Tensor:
    """(B, T) of tokens or (B,) of sequences; 0 where nothing is trained, as `log_rho` is there."""
    if kind == "k1":
        values = -log_rho
    elif kind == "k2":
        values = log_rho.square().mul_(0.5)
    else:
        values = log_rho.expm1().sub_(log_rho)
    if level == "token":
        return values
    if level == "seq_max":  # k2 and k3 are never below 0, the value of a masked token
        return values.amax(-1)
    sums = values.sum(-1)
    return sums if level == "seq_sum" else sums / row_counts(mask).clamp(min=1)


def _options(rollout_rs: Any, thresholds: Any) -> list[tuple[str, float | None, float]]:
    """Each option with its bounds as given."""
    names = [name.strip() for name in rollout_rs.split(",")] if isinstance(rollout_rs, str) else list(rollout_rs)
    for name in names:
        if name not in RS_OPTIONS:
            raise ConfigError(f"`rollout_rs` {name!r} is not one of {', '.join(RS_OPTIONS)}")
    if thresholds is None:
        raise ConfigError(f"`rollout_rs` is {rollout_rs!r} but there is no `rollout_rs_threshold`; give one")
    if isinstance(thresholds, str):
        thresholds = thresholds.split(",")
    given: list[Any] = list(thresholds) if isinstance(thresholds, (list, tuple)) else [thresholds]
    if len(given) not in (1, len(names)):
        raise ConfigError(
            f"`rollout_rs_threshold` has {len(given)} thresholds for {len(names)} options; give one, or one each"
        )
    given = given * len(names) if len(given) == 1 else given
    result: list[tuple[str, float | None, float]] = []
    for name, value in zip(names, given, strict=True):
        low, high = _band(value, "rollout_rs_threshold")
        if low is not None and not name.endswith("k1"):
            raise ConfigError(f"`rollout_rs_threshold` {value!r} is a band; `{name}` takes one number, its upper bound")
        result.append((name, low, high))
    return result


def _band(value: Any, name: str) -> tuple[float | None, float]:
    """`2.0` or `"2.0"` -> (None, 2.0); `"0.5_2.0"` -> (0.5, 2.0)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"`{name}` is {value!r}; it must be a number, or a string such as '2.0' or '0.5_2.0'")
    parts = value.strip().split("_") if isinstance(value, str) else [value]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ConfigError(f"`{name}` is {value!r}; it must be a number above 0, or two as 'low_high'")
    if numbers[0] > numbers[-1]:
        raise ConfigError(f"`{name}` is {value!r}; the lower bound comes first")
    return (None, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
