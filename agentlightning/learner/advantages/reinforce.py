"""REINFORCE without a value model: REINFORCE++ and its baseline form (arXiv 2501.03262), ReMax (arXiv 2310.10505)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from .groups import group_ids, group_statistics
from .masked import kept, lengths, over_tokens, row_blocks, scores, whiten_, whiten_scalars
from .recursion import rewards_to_go, undiscounted_to_go
from .settings import number


def reinforce_plus_plus(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards to go, discounted by `gamma` (1) for each trained token, whitened over the trained tokens.

    Returns are those before whitening. Both are 0 where the mask is.

    Raises:
        ValueError: fewer than two trained tokens, which can't be whitened.
    """
    returns = rewards_to_go(token_level_rewards, response_mask, number(config, "gamma", 1.0))
    advantages = whiten_(returns.clone(), response_mask)
    for rows in row_blocks(returns):
        for result in (advantages, returns):
            result[rows] = kept(result[rows], response_mask[rows])
    return advantages, returns


def reinforce_plus_plus_baseline(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Hashable]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The score minus the group's mean (0 for a row alone), whitened over all trained tokens of the batch.

    Raises:
        ValueError: fewer than two trained tokens, which can't be whitened.
    """
    group = group_statistics(scores(token_level_rewards), group_ids(index), token_level_rewards.dtype)
    whitened = whiten_scalars(group.centred, lengths(response_mask))
    advantages = over_tokens(whitened, response_mask, token_level_rewards)
    return advantages, advantages


def remax(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, reward_baselines: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards to go minus the score of the greedy answer to the same prompt.

    As in verl, a position outside the mask has no baseline subtracted and keeps the rewards to go.

    Args:
        reward_baselines: (B,) scores of the greedy answers.
    """
    advantages, returns = torch.empty_like(token_level_rewards), torch.empty_like(token_level_rewards)
    baselines = reward_baselines.to(returns)[:, None]
    for rows in row_blocks(returns):
        mask = response_mask[rows].bool()
        to_go = undiscounted_to_go(token_level_rewards[rows], mask)
        torch.addcmul(to_go, baselines[rows], mask.to(to_go.dtype), value=-1, out=advantages[rows])
        returns[rows] = to_go
    return advantages, returns
