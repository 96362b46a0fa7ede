"""Sums from the end of a row to its start, the part that GAE, REINFORCE++ and all rewards-to-go share.

Called by the estimators. A column of a (B, T) tensor lies scattered in memory, so the recursion runs over blocks of
columns copied to (columns, B), where each step is one or two operations on B neighbouring numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .masked import ELEMENTS, kept, row_blocks


def column_blocks(like_BT: torch.Tensor) -> Iterator[slice]:
    """Slices of columns of about `ELEMENTS` numbers, from the last to the first."""
    length = like_BT.shape[1]
    step = max(1, ELEMENTS // max(like_BT.shape[0], 1))
    return (slice(max(end - step, 0), end) for end in range(length, 0, -step))


def columns_first(values_BT: torch.Tensor, columns: slice) -> torch.Tensor:
    """(C, B) some columns, to be read only: of a single row it is a view.

    Copied in two steps, as reading down columns whose distance is a power of two would miss the cache at every number.
    """
    return values_BT[:, columns].contiguous().T.contiguous()


def accumulate_(
    increments_CB: torch.Tensor, mask_CB: torch.Tensor, carry_B: torch.Tensor, factor: float
) -> torch.Tensor:
    """In place, from the last row to the first: `x[t] += x[t + 1] * factor`, without the factor where the mask is 0.

    Args:
        increments_CB: 0 where the mask is.
        mask_CB: Truth values.
        carry_B: What follows the last row.
        factor: Discount of a step.

    Returns:
        A view of x[0], the carry of the block before.
    """
    weights = mask_CB.to(increments_CB.dtype)
    factors = (1 - weights).add_(weights, alpha=factor)
    for increment, discount in zip(reversed(increments_CB.unbind()), reversed(factors.unbind()), strict=True):
        carry_B = increment.addcmul_(discount, carry_B)
    return carry_B


def undiscounted_to_go(rewards_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(B, T) the sum of the kept rewards from each position on; for a few rows at a time."""
    return kept(rewards_BT, mask_BT).flip(-1).cumsum_(-1).flip(-1)


def rewards_to_go(rewards_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float = 1.0) -> torch.Tensor:
    """(B, T) the sum of the kept rewards from each position on, discounted by `gamma` for each kept token in between.

    A position that is not kept holds the sum of the next one that is.
    """
    result = torch.empty_like(rewards_BT)
    if gamma == 1.0:
        for rows in row_blocks(rewards_BT):
            result[rows] = undiscounted_to_go(rewards_BT[rows], mask_BT[rows])
        return result
    carry = rewards_BT.new_zeros(rewards_BT.shape[0])
    for columns in column_blocks(rewards_BT):
        mask = columns_first(mask_BT, columns).bool()
        sums = kept(columns_first(rewards_BT, columns), mask)
        carry = accumulate_(sums, mask, carry, gamma)
        result[:, columns] = sums.T.contiguous()
    return result
