"""Generalised advantage estimation (arXiv 1506.02438), the estimator of PPO with a value model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .masked import kept, whiten_
from .recursion import accumulate_, column_blocks, columns_first
from .settings import number


def gae(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, values: torch.Tensor, config: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages, whitened over the trained tokens, and returns. Reads `gamma` (1) and `lam` (1).

    Tokens that the policy did not sample (prompts of tools, padding) are skipped: the next sampled token is the next
    step, without a discount in between, and they hold its advantage. As in verl, whitening changes them too, and
    returns are the advantages before whitening plus the values.

    Raises:
        ValueError: fewer than two trained tokens, which can't be whitened.
    """
    gamma, lam = number(config, "gamma", 1.0), number(config, "lam", 1.0)
    advantages, returns = torch.empty_like(token_level_rewards), torch.empty_like(token_level_rewards)
    later_value = later_advantage = advantages.new_zeros(advantages.shape[0])
    for columns in column_blocks(advantages):
        mask = columns_first(response_mask, columns).bool()
        value = columns_first(values, columns).to(advantages)
        following = _following(value, mask, later_value)
        later_value = following[0]
        change = torch.add(columns_first(token_level_rewards, columns), following[1:], alpha=gamma).sub_(value)
        change = kept(change, mask)
        later_advantage = accumulate_(change, mask, later_advantage, gamma * lam)
        advantages[:, columns] = change.T.contiguous()
        returns[:, columns] = (change + value).T.contiguous()  # not in place: the carry is a view of `change`
    return whiten_(advantages, response_mask), returns


def _following(value_CB: torch.Tensor, mask_CB: torch.Tensor, later_B: torch.Tensor) -> torch.Tensor:
    """(C + 1, B): at t the value of the first sampled token from t on, with `later_B` after the last."""
    result = torch.cat([value_CB, later_B[None]])
    steps = result.unbind()
    for t in range(len(mask_CB) - 1, -1, -1):
        torch.where(mask_CB[t], value_CB[t], steps[t + 1], out=steps[t])
    return result
