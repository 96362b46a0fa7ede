"""Groups of rows that answer the same prompt: their sizes, means, spreads and ties, for all groups at once.

Called by the group-relative estimators. One number a row, float64 on the CPU, whatever the rewards are: a mean of
equal float32 scores taken in float32 can miss them by an ulp.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import torch


def group_ids(index: Iterable[Hashable]) -> torch.Tensor:
    """(B,) labels, any hashable -> (B,) whole numbers from 0, in the order of first appearance.

    Raises:
        ValueError: a label can't be hashed.
    """
    if isinstance(index, torch.Tensor | np.ndarray):
        index = index.tolist()
    numbers: dict[Hashable, int] = {}
    ids: list[int] = []
    for label in index:
        try:
            ids.append(numbers.setdefault(label, len(numbers)))
        except TypeError as error:
            raise ValueError(f"`index` has the label {label!r:.80}; give one string or number a row") from error
    return torch.tensor(ids, dtype=torch.long)


def sums_by_group(values_B: torch.Tensor, ids_B: torch.Tensor) -> torch.Tensor:
    """(G,) sums of the rows of each group."""
    return values_B.new_zeros(_count(ids_B)).index_add_(0, ids_B, values_B)


def _count(ids_B: torch.Tensor) -> int:
    return int(ids_B.max()) + 1 if len(ids_B) else 0


def _extreme(values_B: torch.Tensor, ids_B: torch.Tensor, which: str) -> torch.Tensor:
    empty = values_B.new_zeros(_count(ids_B))
    return empty.scatter_reduce_(0, ids_B, values_B, which, include_self=False)


@dataclass(frozen=True, slots=True, eq=False)
class GroupStatistics:
    """Of each row's group, all (B,)."""

    size: torch.Tensor
    """Number of rows in the group, float64."""
    alone: torch.Tensor
    """Whether the group is of one."""
    tied: torch.Tensor
    """Whether the group, of two or more, has the same score everywhere."""
    centred: torch.Tensor
    """The row's score minus the group's mean, float64; the score itself if alone, exactly 0 if tied."""
    deviation: torch.Tensor
    """The sample standard deviation, float64; 1 if alone, exactly 0 if tied."""


def group_statistics(scores_B: torch.Tensor, ids_B: torch.Tensor, dtype: torch.dtype) -> GroupStatistics:
    """Statistics of (B,) float64 scores.

    Scores that differ by no more than a few ulp of `dtype`, the type that the rewards came in, are ties: they carry no
    signal, and divided by a deviation near 0 their rounding errors would become noise.
    """
    sizes = sums_by_group(torch.ones_like(scores_B), ids_B)
    width = _extreme(scores_B, ids_B, "amax") - _extreme(scores_B, ids_B, "amin")
    same = width <= 8 * torch.finfo(dtype).eps * _extreme(scores_B.abs(), ids_B, "amax")
    size, alone = sizes[ids_B], sizes[ids_B] == 1
    tied = same[ids_B] & ~alone
    centred = torch.where(tied, 0.0, scores_B - (sums_by_group(scores_B, ids_B) / sizes)[ids_B])
    variance = sums_by_group(centred.square(), ids_B) / (sizes - 1).clamp(min=1)
    return GroupStatistics(
        size=size,
        alone=alone,
        tied=tied,
        centred=torch.where(alone, scores_B, centred),
        deviation=torch.where(alone, 1.0, variance.sqrt()[ids_B]),
    )
