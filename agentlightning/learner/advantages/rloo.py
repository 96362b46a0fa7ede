"""REINFORCE leave-one-out: a row's score against the mean of the others' (arXiv 2402.14740)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from .groups import group_ids, group_statistics
from .masked import over_tokens, scores


def rloo(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Hashable]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`n / (n - 1) * (s - mean)` at each trained token. A row alone in its group keeps its score, as in verl."""
    return _leave_one_out(token_level_rewards, response_mask, index, keep_alone=True)


def rloo_vectorized(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Hashable]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rloo`, but a row alone in its group gets 0."""
    return _leave_one_out(token_level_rewards, response_mask, index, keep_alone=False)


def _leave_one_out(
    rewards: torch.Tensor, mask: torch.Tensor, index: Sequence[Hashable], *, keep_alone: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    group = group_statistics(scores(rewards), group_ids(index), rewards.dtype)
    factor = torch.where(group.alone, float(keep_alone), group.size / (group.size - 1).clamp(min=1))
    advantages = over_tokens(factor * group.centred, mask, rewards)
    return advantages, advantages
