"""Losses of padded (B, T) tensors, a few rows at a time.

Only the gradient is kept of each part, so that neither the intermediate tensors of the forward pass nor a graph of
them exist for the whole batch, and a part stays in the cache. Called by the public functions of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..known_gradient import with_gradient
from .aggregation import as_mask, row_counts, shares
from .base import Losses, PaddedSequences, PolicyLoss, PolicyTokens
from .settings import Settings

CHUNK_ELEMENTS = {"cpu": 1 << 17}
"""Elements evaluated at a time: a dozen such tensors stay in the last cache, and there is more to do in an operation
than to begin it. Other devices: `_BIG_CHUNK`."""
_BIG_CHUNK = 1 << 22
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by the bytes of a number."""

Evaluate = Callable[[torch.Tensor, Sequence[torch.Tensor], PaddedSequences], Losses]
"""(rows of the leaf, those of the other tensors, their mask) -> (losses, metrics)."""


def evaluate_padded(
    loss: PolicyLoss,
    *,
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: Settings,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss and its metrics, means over the trained tokens; the gradient goes to `log_prob` alone."""
    mask = as_mask(response_mask)
    counts = row_counts(mask)
    others = [old_log_prob.detach(), advantages.detach()]
    if loss.choose is not None:
        others.append(_chosen(loss.choose, [log_prob.detach(), *others], mask, config))
    if rollout_is_weights is not None:
        others.append(rollout_is_weights.detach())

    def evaluate(leaf: torch.Tensor, columns: Sequence[torch.Tensor], sequences: PaddedSequences) -> Losses:
        old, advantage, *rest = columns
        chosen = rest.pop(0) if loss.choose is not None else None
        return loss(PolicyTokens(leaf, old, advantage, sequences, rest[0] if rest else None, chosen), config)

    share, divisor = shares(loss.aggregation or loss_agg_mode, mask, counts, log_prob.dtype, **config.global_batch_info)
    total, sums = sum_over_rows(log_prob, others, mask, share, evaluate)
    count = max(int(counts.sum()), 1)
    return total / divisor, {name: float(value) / count for name, value in sums.items()}


def _chosen(
    choose: Callable[[PolicyTokens, Settings], torch.Tensor],
    tensors: Sequence[torch.Tensor],
    mask: torch.Tensor,
    config: Settings,
) -> torch.Tensor:
    """(B, T) bool: the tokens that a loss picks from all trained ones; `tensors` as in `PolicyTokens`."""
    at = mask.reshape(-1).nonzero()[:, 0]
    log_prob, old_log_prob, advantages = (tensor.reshape(-1).index_select(0, at) for tensor in tensors)
    picked = choose(PolicyTokens(log_prob, old_log_prob, advantages, PaddedSequences(mask)), config)
    return mask.new_zeros(mask.numel()).index_fill_(0, at[picked], True).view(mask.shape)


def sum_over_rows(
    leaf: torch.Tensor,
    others: Sequence[torch.Tensor],
    mask: torch.Tensor,
    share: torch.Tensor | None,
    evaluate: Evaluate,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum of `share` times the loss over the masked tokens, and sums of the metrics.

    Args:
        leaf: (B, T) the tensor that may want a gradient.
        others: (B, T) each; none gets a gradient.
        mask: (B, T) bool. What stands elsewhere reaches neither value nor gradient, NaN included.
        share: (B, 1) or (B, T), or `None` for 1.
        evaluate: A loss in which tokens of different rows do not depend on each other.
    """
    wants_gradient = leaf.requires_grad and torch.is_grad_enabled()
    gradient = torch.empty_like(leaf, memory_format=torch.contiguous_format) if wants_gradient else None
    one, sums = leaf.new_ones(1, 1), dict[str, torch.Tensor]()
    total = leaf.new_zeros((), dtype=torch.promote_types(leaf.dtype, torch.float32))
    rows = max(1, CHUNK_ELEMENTS.get(leaf.device.type, _BIG_CHUNK) // max(mask.shape[-1], 1))
    for start in range(0, len(mask), rows):
        part = slice(start, start + rows)
        values = leaf.detach()[part].requires_grad_(wants_gradient)
        with torch.set_grad_enabled(wants_gradient):
            losses, metrics = evaluate(values, [other[part] for other in others], PaddedSequences(mask[part]))
        bits = -mask[part].to(_BITS[leaf.element_size()])
        if gradient is not None:
            weights = _only(one if share is None else share[part], bits).to(losses.dtype)
            (slope,) = torch.autograd.grad(losses, values, weights)
            # Once more: what is not finite at a token outside the mask stays so when multiplied by 0.
            torch.bitwise_and(slope.view(bits.dtype), bits, out=gradient[part].view(bits.dtype))
        real = _only(losses.detach(), bits)
        total += real.sum() if share is None else (real * share[part]).sum()
        for name, metric in metrics.items():
            sums[name] = sums.get(name, 0) + _sum(metric.detach(), mask[part], bits)
    return (total if gradient is None else with_gradient(leaf, total, gradient)), sums


def _only(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """`values` where all `bits` are set, 0 where none is: `torch.where` at a fraction of its cost."""
    bits = bits.to(_BITS[values.element_size()])  # losses may be of higher precision than what they are of
    return (values.view(bits.dtype) & bits).view(values.dtype)


def _sum(metric: torch.Tensor, mask: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    if metric.dim() == 0:
        return metric
    return (metric & mask).sum() if metric.dtype == torch.bool else _only(metric, bits).sum()
