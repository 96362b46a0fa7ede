"""Optimal token baseline: at each position the baseline that makes the gradient's variance least.

Source: "The Optimal Token Baseline: Variance Reduction for Long-Horizon LLM-RL" (Li et al., 2026), in verl's form. A
token's part of the squared gradient norm is estimated from probabilities alone, `1 - 2 p + sum(p^2)`; the baseline is
the group's mean return at a position, weighted by these parts summed up to there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .groups import group_ids, sums_by_group
from .masked import bits, keep_, kept
from .recursion import rewards_to_go
from .settings import flag, number

Columns = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Log-probs, sums of squared probabilities, importance weights; (B, T) each."""


def optimal_token_baseline(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    old_log_probs: torch.Tensor,
    sum_pi_squared: torch.Tensor,
    config: Mapping[str, Any],
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards to go minus the baseline of their group and position; 0 outside the mask. Returns are the former.

    A row alone in its group has no baseline. Where one row has more tokens than all others of its group, its baseline
    ends at the second number of tokens (`handle_zero_tail`, True): beyond, it would be the row's own return. Reads
    `epsilon` (1e-8).

    Args:
        old_log_probs: (B, T) log-probs of the sampled tokens.
        sum_pi_squared: (B, T) sum of the squared probabilities of the whole vocabulary.
        rollout_is_weights: (B, T) importance weights of the sampler; their square scales a token's part.
    """
    returns = rewards_to_go(token_level_rewards, response_mask)
    columns = (old_log_probs, sum_pi_squared, rollout_is_weights)
    return _minus_baselines(returns, response_mask, index, columns, config, compact=False), returns


def tir_optimal_token_baseline(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    old_log_probs: torch.Tensor,
    sum_pi_squared: torch.Tensor,
    config: Mapping[str, Any],
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`optimal_token_baseline` for rollouts of several turns: rows are compared at their k-th sampled token.

    What tools answered in between does not shift them against each other. Rows without a trained token don't count.
    """
    returns = rewards_to_go(token_level_rewards, response_mask)
    columns = (old_log_probs, sum_pi_squared, rollout_is_weights)
    return _minus_baselines(returns, response_mask, index, columns, config, compact=True), returns


def _minus_baselines(
    returns: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    columns: Columns,
    config: Mapping[str, Any],
    *,
    compact: bool,
) -> torch.Tensor:
    """(B, T) advantages, group by group: a group's temporaries are small and stay in the cache."""
    epsilon, cut = number(config, "epsilon", 1e-8), flag(config, "handle_zero_tail", True)
    advantages = torch.empty_like(returns)
    for rows in _groups(group_ids(index)):
        mask, own = response_mask[rows].bool(), returns[rows]
        tokens = mask.sum(-1)
        if len(own) < 2 or (compact and int(tokens.count_nonzero()) < 2):
            advantages[rows] = kept(own, mask)
            continue
        whole = bits(mask, returns.dtype)
        parts = keep_(keep_(_parts(rows, columns, returns), whole).cumsum_(-1), whole)
        place = (mask.cumsum(-1) - 1).clamp_(min=0) if compact else None
        baseline_T = _over_rows(parts * own, place) / (_over_rows(parts, place) + epsilon)
        without = own - (baseline_T if place is None else baseline_T.expand_as(own).gather(-1, place))
        if cut:
            _cut_tail(without, own, tokens, place)
        advantages[rows] = keep_(without, whole)
    return advantages


def _groups(ids_B: torch.Tensor) -> Iterator[slice | torch.Tensor]:
    """The rows of each group; a slice, of which nothing is copied, where they are neighbours."""
    sizes = sums_by_group(torch.ones_like(ids_B), ids_B)
    for rows in ids_B.argsort(stable=True).split(sizes.tolist()):
        first, last = int(rows[0]), int(rows[-1])
        yield slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _parts(rows: slice | torch.Tensor, columns: Columns, like: torch.Tensor) -> torch.Tensor:
    """(n, T) each token's part of the squared gradient norm."""
    old_log_probs, sum_pi_squared, weights = columns
    probability = old_log_probs[rows].to(like.dtype).exp()
    parts = torch.sub(sum_pi_squared[rows].to(like.dtype), probability, alpha=2).add_(1)
    return parts if weights is None else parts.mul_(weights[rows].to(like.dtype).square())


def _over_rows(values_nT: torch.Tensor, place_nT: torch.Tensor | None) -> torch.Tensor:
    """(T,) sums over the rows, at the same position or at the same `place`."""
    if place_nT is None:
        return values_nT.sum(0)
    return values_nT.new_zeros(values_nT.shape[1]).index_add_(0, place_nT.flatten(), values_nT.flatten())


def _cut_tail(
    without_nT: torch.Tensor, own_nT: torch.Tensor, tokens_n: torch.Tensor, place_nT: torch.Tensor | None
) -> None:
    """In place: if one row has the most tokens, it keeps its own return from the second number of tokens on."""
    (longest, second), (row, _) = (part.tolist() for part in tokens_n.topk(2))
    if longest > second:
        start = second if place_nT is None else int((place_nT[row] < second).sum())
        without_nT[row, start:] = own_nT[row, start:]
