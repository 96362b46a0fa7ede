"""Sums, means and whitening over the tokens that a mask keeps; what stands elsewhere is ignored, NaN included.

Called by the estimators. Works on some rows at a time: a (B, T) temporary would cost as much as the result itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

ELEMENTS = 1 << 16
"""Numbers in a working block: a quarter of a MiB in float32, so that a handful of them stay in a core's cache."""

EPSILON = 1e-8
"""Added to the number of tokens and to the variance, as verl's masked mean and whitening do."""


_BITS = {4: torch.int32, 8: torch.int64}


def bits(mask_BT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, T) integers as wide as `dtype`, all bits set where the mask is."""
    return mask_BT.bool().to(_BITS[dtype.itemsize]).neg_()


def kept(values: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(B, T) the values where the mask is and 0 elsewhere, also where they are NaN there. Values may be (B, 1).

    By their bits: on a ragged mask `torch.where` takes four times as long, and a product would keep NaN.
    """
    whole = bits(mask_BT, values.dtype)
    return whole.bitwise_and_(values.view(whole.dtype)).view(values.dtype)


def keep_(values: torch.Tensor, bits_BT: torch.Tensor) -> torch.Tensor:
    """`kept` in place, with a mask's `bits`."""
    values.view(bits_BT.dtype).bitwise_and_(bits_BT)
    return values


def row_blocks(like_BT: torch.Tensor) -> Iterator[slice]:
    """Slices of rows of about `ELEMENTS` numbers."""
    step = max(1, ELEMENTS // max(like_BT.shape[1], 1))
    return (slice(start, start + step) for start in range(0, like_BT.shape[0], step))


def scores(rewards_BT: torch.Tensor) -> torch.Tensor:
    """(B,) the sum of each row over all positions, in float64 on the CPU. The mask does not matter here."""
    return rewards_BT.sum(-1).cpu().double()


def lengths(mask_BT: torch.Tensor) -> torch.Tensor:
    """(B,) the number of kept tokens of each row, in float64 on the CPU."""
    counts = [mask_BT[rows].bool().sum(-1) for rows in row_blocks(mask_BT)]
    return torch.cat(counts).cpu().double() if counts else torch.zeros(0, dtype=torch.float64)


def over_tokens(values_B: torch.Tensor, mask_BT: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, T) each row's value at its kept tokens and 0 elsewhere, in the type and on the device of `like`."""
    values = values_B.to(like)[:, None]
    # A mask of another type becomes the result; left to the product, it would be copied beside it.
    return values * mask_BT if mask_BT.dtype == like.dtype else mask_BT.to(like.dtype).mul_(values)


def whiten_scalars(values_B: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """What `whiten_` makes of rows that hold one value at all their kept tokens, from the values alone.

    Args:
        values_B: One value a row, float64.
        lengths_B: Kept tokens of each row.

    Raises:
        ValueError: fewer than two tokens.
    """
    there = torch.where(lengths_B > 0, values_B, 0.0)
    count = float(lengths_B.sum())
    mean = float((there * lengths_B).sum()) / (count + EPSILON)
    return (values_B - mean) * _inverse_deviation(float(((there - mean).square() * lengths_B).sum()), count)


def whiten_(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """In place, at all positions: minus the mean over the kept tokens, over their standard deviation.

    The variance is the unbiased one, plus 1e-8.

    Raises:
        ValueError: fewer than two tokens.
    """
    count = float(lengths(mask_BT).sum())
    mean = _total(values_BT, mask_BT, 0.0, 1) / (count + EPSILON)
    scale = _inverse_deviation(_total(values_BT, mask_BT, mean, 2), count)
    return values_BT.sub_(mean).mul_(scale)


def _total(values_BT: torch.Tensor, mask_BT: torch.Tensor, centre: float, power: int) -> float:
    """Sum of `(value - centre) ** power` over the kept tokens; blocks in the values' type, their sum in float64."""
    parts: list[torch.Tensor] = []
    for rows in row_blocks(values_BT):
        distances = kept(values_BT[rows] - centre, mask_BT[rows])
        parts.append((distances if power == 1 else distances.square_()).sum())
    return float(sum(torch.stack(parts).tolist())) if parts else 0.0


def _inverse_deviation(squares: float, count: float) -> float:
    if count < 2:
        raise ValueError(
            f"whitening needs at least two trained tokens in the batch, `response_mask` keeps {count:.0f}; "
            "drop empty batches, or choose an estimator that does not whiten"
        )
    variance = squares / (count + EPSILON) * count / (count - 1)
    return 1 / math.sqrt(variance + EPSILON)
