"""Group-relative advantages: GRPO (arXiv 2402.03300); without the standard deviation Dr.GRPO (arXiv 2503.20783)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def group_relative(scores: torch.Tensor, index: Sequence[Any], *, norm_by_std: bool, epsilon: float) -> torch.Tensor:
    """(B,) scores -> (B,) `(s - mean) / (std + epsilon)` within each group; std is the sample one.

    A group of equal scores (to a few ulp) carries no signal and gets exactly 0: the mean of equal float32 values can be
    one ulp off, and divided by `epsilon` that would become noise. A group of one keeps its score over `1 + epsilon`
    (mean 0, std 1), as verl does.
    """
    members: dict[Any, list[int]] = {}
    for row, label in enumerate(index):
        members.setdefault(label, []).append(row)
    result = torch.zeros_like(scores)
    for rows in members.values():
        group = scores[rows]
        if len(rows) == 1:
            result[rows] = group / (1.0 + epsilon) if norm_by_std else group
        elif bool(group.max() - group.min() <= 8 * torch.finfo(scores.dtype).eps * group.abs().max()):
            continue
        else:
            centred = group - group.mean()
            result[rows] = centred / (group.std() + epsilon) if norm_by_std else centred
    return result


def grpo(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any] | None,
    config: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `compute_advantages`. Reads `norm_adv_by_std_in_grpo` (True) and `epsilon` (1e-6) from `config`.

    Raises:
        ValueError: no `index`.
    """
    if index is None:
        raise ValueError("`grpo` needs `index`, the group label of each row")
    scalar = group_relative(
        token_level_rewards.sum(-1),
        index,
        norm_by_std=bool(config.get("norm_adv_by_std_in_grpo", True)),
        epsilon=float(config.get("epsilon", 1e-6)),
    )
    advantages = scalar[:, None] * response_mask
    return advantages, advantages
