"""The value model's loss, clipped as in PPO's reference code (arXiv 1707.06347)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .aggregation import as_mask, row_counts, shares
from .base import Losses, PaddedSequences
from .padded import sum_over_rows


def value_losses(
    vpreds: torch.Tensor, returns: torch.Tensor, values: torch.Tensor, cliprange_value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per token `max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) / 2`, and whether the clipped term is larger."""
    # A clipped prediction has no gradient, and one that is not clipped is the prediction itself.
    with torch.no_grad():
        clipped = vpreds.clamp(values - cliprange_value, values + cliprange_value)
        larger = (clipped - returns).square() > (vpreds - returns).square()
    return 0.5 * (torch.where(larger, clipped, vpreds) - returns).square(), larger


def compute_value_loss(
    *,
    vpreds: torch.Tensor,
    returns: torch.Tensor,
    values: torch.Tensor,
    response_mask: torch.Tensor,
    cliprange_value: float = 0.5,
    loss_agg_mode: str = "token-mean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The value loss of padded (B, T) tensors.

    Args:
        vpreds: (B, T) the value model's present predictions; the only tensor that gets a gradient.
        returns: (B, T) what they should be.
        values: (B, T) predictions at the time of the rollout.
        response_mask: (B, T) 1 where the token is trained.
        cliprange_value: How far a prediction may move from `values` before its gain stops counting.
        loss_agg_mode: See `agg_loss`.

    Returns:
        The loss, and the share of tokens whose clipped error is the larger one.

    Raises:
        ConfigError: unknown `loss_agg_mode`.
    """

    def evaluate(leaf: torch.Tensor, others: Sequence[torch.Tensor], sequences: PaddedSequences) -> Losses:
        losses, clipped = value_losses(leaf, others[0], others[1], cliprange_value)
        return losses, {"clipped": clipped}

    mask = as_mask(response_mask)
    counts = row_counts(mask)
    share, divisor = shares(loss_agg_mode, mask, counts, vpreds.dtype)
    total, sums = sum_over_rows(vpreds, [returns.detach(), values.detach()], mask, share, evaluate)
    return total / divisor, sums["clipped"] / counts.sum().clamp(min=1)
