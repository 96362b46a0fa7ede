"""Group policy gradient (arXiv 2504.02546): centred in the group, scaled by the share of rows that earned anything."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from .groups import group_ids, group_statistics
from .masked import over_tokens, scores


def gpg(
    *, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Hashable]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`alpha * (s - mean)` at each trained token, alpha = rows / rows with a score other than 0.

    A row alone in its group counts as mean 0.
    """
    scores_B = scores(token_level_rewards)
    alpha = len(scores_B) / max(int(scores_B.count_nonzero()), 1)
    group = group_statistics(scores_B, group_ids(index), token_level_rewards.dtype)
    advantages = over_tokens(alpha * group.centred, response_mask, token_level_rewards)
    return advantages, advantages
