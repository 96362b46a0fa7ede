"""Group-relative advantages: GRPO (arXiv 2402.03300); without the standard deviation Dr.GRPO (arXiv 2503.20783)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from .groups import group_ids, group_statistics
from .masked import over_tokens, scores
from .settings import flag, number


def group_relative(
    scores_B: torch.Tensor, ids_B: torch.Tensor, dtype: torch.dtype, config: Mapping[str, Any]
) -> torch.Tensor:
    """(B,) float64 scores -> `(s - mean) / (std + epsilon)` within each group; std is the sample one.

    A tied group gets exactly 0. A row alone in its group counts as mean 0 and std 1, so it keeps its score over
    `1 + epsilon`. Without `norm_adv_by_std_in_grpo` nothing is divided.
    """
    group = group_statistics(scores_B, ids_B, dtype)
    if not flag(config, "norm_adv_by_std_in_grpo", True):
        return group.centred
    return group.centred / (group.deviation + number(config, "epsilon", 1e-6))


def grpo(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    config: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The row's score against its group's, at each trained token; see `group_relative`.

    Reads `norm_adv_by_std_in_grpo` (True) and `epsilon` (1e-6).
    """
    relative = group_relative(scores(token_level_rewards), group_ids(index), token_level_rewards.dtype, config)
    advantages = over_tokens(relative, response_mask, token_level_rewards)
    return advantages, advantages


def grpo_vectorized(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    config: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """`grpo` computed in float32, whatever type the rewards are of. verl has both; here `grpo` is vectorised too."""
    relative = group_relative(scores(token_level_rewards.float()), group_ids(index), torch.float32, config)
    advantages = over_tokens(relative.float(), response_mask, token_level_rewards)
    return advantages, advantages
