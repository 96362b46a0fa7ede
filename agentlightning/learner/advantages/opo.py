"""On-policy RL with optimal reward baseline (arXiv 2505.23585): the baseline weighs rows by their length."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from .groups import group_ids, group_statistics, sums_by_group
from .masked import lengths, over_tokens, scores


def opo(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Hashable]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s - b` at each trained token; b is the mean score of the group, weighted by the rows' trained tokens.

    A row alone in its group keeps its score. A group without a trained token has b = 0, where verl divides 0 by 0; its
    advantages are 0 everywhere.
    """
    scores_B, ids_B, lengths_B = scores(token_level_rewards), group_ids(index), lengths(response_mask)
    group = group_statistics(scores_B, ids_B, token_level_rewards.dtype)
    tokens = sums_by_group(lengths_B, ids_B)
    baseline = sums_by_group(lengths_B * scores_B, ids_B) / tokens.clamp(min=1)
    relative = torch.where(group.tied, 0.0, scores_B - baseline[ids_B])
    advantages = over_tokens(torch.where(group.alone, scores_B, relative), response_mask, token_level_rewards)
    return advantages, advantages
