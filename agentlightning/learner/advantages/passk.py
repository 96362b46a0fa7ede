"""Pass@k: only the best row of a group is paid, by how much it beats the second (arXiv 2503.19595)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from .groups import group_ids, group_statistics, sums_by_group
from .masked import over_tokens, scores
from .settings import flag, number


def grpo_passk(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    config: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best score minus the second best, at the trained tokens of the best row; 0 elsewhere and where they tie.

    Divided by the group's standard deviation + `epsilon` (1e-6) unless `norm_adv_by_std_in_grpo` is False.

    Raises:
        ValueError: a group of one.
    """
    scores_B, ids_B = scores(token_level_rewards), group_ids(index)
    group = group_statistics(scores_B, ids_B, token_level_rewards.dtype)
    if group.alone.any():
        row = int(group.alone.nonzero()[0])
        raise ValueError(
            f"`grpo_passk` compares the two best rows of each group, but row {row} is alone under its label "
            f"{index[row]!r}; give at least two samples a prompt (`actor_rollout_ref.rollout.n`)"
        )
    paid = torch.where(group.tied, 0.0, _lead(scores_B, ids_B))
    if flag(config, "norm_adv_by_std_in_grpo", True):
        paid = paid / (group.deviation + number(config, "epsilon", 1e-6))
    advantages = over_tokens(paid, response_mask, token_level_rewards)
    return advantages, advantages


def _lead(scores_B: torch.Tensor, ids_B: torch.Tensor) -> torch.Tensor:
    """(B,) for the best row of each group its distance to the second best, 0 for the others."""
    by_score = scores_B.argsort(descending=True, stable=True)
    order = by_score[ids_B[by_score].argsort(stable=True)]  # group after group, the best first
    sizes = sums_by_group(torch.ones_like(ids_B), ids_B)
    first = sizes.cumsum(0) - sizes
    best, second = order[first], order[first + 1]
    result = torch.zeros_like(scores_B)
    result[best] = scores_B[best] - scores_B[second]
    return result
