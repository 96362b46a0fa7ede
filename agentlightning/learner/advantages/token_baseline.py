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
from .masked import kept
from .recursion import rewards_to_go
from .settings import flag, number


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
    columns: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    config: Mapping[str, Any],
    *,
    compact: bool,
) -> torch.Tensor:
    """(B, T) advantages, group by group: a group's temporaries are small and stay in the cache."""
    response_mask = response_mask.bool()
    epsilon, cut = number(config, "epsilon", 1e-8), flag(config, "handle_zero_tail", True)
    advantages = kept(returns, response_mask)
    for rows in _groups(group_ids(index).to(returns.device)):
        rows = rows[response_mask[rows].any(-1)] if compact else rows
        if len(rows) < 2:
            continue
        mask = response_mask[rows]
        parts = kept(kept(_parts(rows, columns, returns), mask).cumsum_(-1), mask)
        place = (mask.cumsum(-1) - 1).clamp_(min=0) if compact else None
        weighted, parts = _over_rows(parts * returns[rows], place), _over_rows(parts, place)
        baseline = (weighted / (parts + epsilon)).repeat(len(rows), 1)
        if cut:
            _cut_tail(baseline, mask)
        baseline = baseline if place is None else baseline.gather(-1, place)
        advantages.index_add_(0, rows, kept(baseline, mask), alpha=-1)
    return advantages


def _groups(ids_B: torch.Tensor) -> Iterator[torch.Tensor]:
    sizes = sums_by_group(torch.ones_like(ids_B), ids_B)
    return iter(ids_B.argsort(stable=True).split(sizes.tolist()))


def _parts(
    rows: torch.Tensor, columns: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], like: torch.Tensor
) -> torch.Tensor:
    """(n, T) each token's part of the squared gradient norm."""
    old_log_probs, sum_pi_squared, weights = columns
    parts = old_log_probs[rows].to(like).exp_().mul_(-2).add_(1).add_(sum_pi_squared[rows])
    return parts if weights is None else parts.mul_(weights[rows].to(like).square_())


def _over_rows(values_nT: torch.Tensor, place_nT: torch.Tensor | None) -> torch.Tensor:
    """(T,) sums over the rows, at the same position or at the same `place`."""
    if place_nT is None:
        return values_nT.sum(0)
    return values_nT.new_zeros(values_nT.shape[1]).index_add_(0, place_nT.flatten(), values_nT.flatten())


def _cut_tail(baseline_nT: torch.Tensor, mask_nT: torch.Tensor) -> None:
    """In place: if one row has the most tokens, its baseline is 0 from the second number of tokens on."""
    (longest, second), (row, _) = (part.tolist() for part in mask_nT.sum(-1).topk(2))
    if longest > second:
        baseline_nT[row, second:] = 0.0
