"""From losses per token to one number, as verl's `loss_agg_mode` names it.

Every mode is a weighted sum of token losses whose weights depend on the whole mini-batch only. So the packed step
multiplies each token by its weight and sums: the result can't depend on the split into micro-batches, on the order
of rows, on how many rows a rollout became, or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agentlightning.types import ConfigError
from agentlightning.types.tokens import Float32

AGG_MODES = (
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "seq-mean-token-mean",
    "per-rollout-mean",
)
"""verl's five, and `per-rollout-mean`: the mean over rollouts of the mean over a rollout's turns of the mean over a
turn's tokens. `seq-mean-token-mean` gives every rollout the same weight, but in it a turn of 500 tokens outweighs one
of 5 by a hundred to one; here every turn of a rollout weighs the same."""


def turn_weights(
    mode: str,
    tokens_per_turn: Sequence[Sequence[int]],
    *,
    loss_scale_factor: float | None = None,
    dp_size: int = 1,
) -> list[Float32]:
    """The weight of each token in a mini-batch's loss, by rollout and turn.

    Args:
        mode: One of `AGG_MODES`. In the `seq-` modes a sequence is a rollout, however many rows it became.
        tokens_per_turn: For each of R rollouts the number of trained tokens of each of its turns.
        loss_scale_factor: Divisor of `seq-mean-token-sum-norm`; default the longest rollout's token count.
        dp_size: Workers over which gradients are averaged; the counts are those of all of them together.

    Returns:
        For each rollout (K,) the weight of every token of that turn.

    Raises:
        ConfigError: unknown mode.
    """
    turns = [np.asarray(counts, np.float64) for counts in tokens_per_turn]
    totals = np.array([counts.sum() for counts in turns], np.float64)
    of_rollout = _of_rollouts(mode, totals, loss_scale_factor) * dp_size
    if mode != "per-rollout-mean":
        return [np.full(len(counts), w, np.float32) for counts, w in zip(turns, of_rollout, strict=True)]
    # A rollout's share, undone per token and shared out by turn.
    return [
        (w * max(total, 1.0) / max(int((counts > 0).sum()), 1) / np.maximum(counts, 1.0)).astype(np.float32)
        for counts, total, w in zip(turns, totals, of_rollout, strict=True)
    ]


def token_weights(
    mode: str,
    tokens_per_rollout: Sequence[int],
    *,
    loss_scale_factor: float | None = None,
    dp_size: int = 1,
) -> Float32:
    """(R,) the same where a rollout is one turn: the weight of every token of that rollout, as in `turn_weights`.

    Raises:
        ConfigError: unknown mode.
    """
    totals = np.asarray(tokens_per_rollout, np.float64)
    return (_of_rollouts(mode, totals, loss_scale_factor) * dp_size).astype(np.float32)


def _of_rollouts(mode: str, counts: np.ndarray, loss_scale_factor: float | None) -> np.ndarray:
    total, rollouts = max(counts.sum(), 1.0), max(int((counts > 0).sum()), 1)
    if mode == "token-mean":
        return np.full_like(counts, 1.0 / total)
    if mode == "token-sum":
        return np.ones_like(counts)
    if mode == "seq-mean-token-sum":
        return np.full_like(counts, 1.0 / rollouts)
    if mode == "seq-mean-token-sum-norm":
        return np.full_like(counts, 1.0 / rollouts / (loss_scale_factor or max(counts.max(initial=1.0), 1.0)))
    if mode in ("seq-mean-token-mean", "per-rollout-mean"):
        return 1.0 / rollouts / np.maximum(counts, 1.0)
    raise _unknown(mode)


def agg_loss(
    loss_mat: torch.Tensor,
    loss_mask: torch.Tensor,
    loss_agg_mode: str,
    *,
    dp_size: int = 1,
    batch_num_tokens: int | torch.Tensor | None = None,
    global_batch_size: int | torch.Tensor | None = None,
    loss_scale_factor: float | None = None,
) -> torch.Tensor:
    """The same for padded tensors, each row a sequence (verl's `agg_loss`).

    In `per-rollout-mean` a row is a rollout and an unbroken run of trained tokens is a turn. Where no token is
    trained the loss is NaN (0 / 0), as in verl; `token-sum` gives 0.

    Args:
        loss_mat: (B, T) losses; what stands where the mask is 0 is ignored, NaN included.
        loss_mask: (B, T).
        loss_agg_mode: One of `AGG_MODES`.
        dp_size: Number of data-parallel workers; gradients are averaged over them, hence the factor.
        batch_num_tokens: Trained tokens of the whole mini-batch; default those at hand.
        global_batch_size: Sequences of the whole mini-batch; default the rows at hand with a trained token.
        loss_scale_factor: Divisor of `seq-mean-token-sum-norm`; default T.

    Raises:
        ConfigError: unknown mode.
        ValueError: `dp_size` > 1 without the totals of the whole mini-batch.
    """
    mask = as_mask(loss_mask)
    share, divisor = shares(
        loss_agg_mode,
        mask,
        row_counts(mask),
        loss_mat.dtype,
        dp_size=dp_size,
        batch_num_tokens=batch_num_tokens,
        global_batch_size=global_batch_size,
        loss_scale_factor=loss_scale_factor,
    )
    losses = torch.where(mask, loss_mat, 0.0)
    if share is None:
        return losses.sum() / divisor
    if share.shape[-1] == 1:  # one number a row: the rows are summed first, so that no (B, T) product is kept
        losses = losses.sum(-1, keepdim=True)
    return (losses * share).sum() / divisor


def as_mask(mask: torch.Tensor) -> torch.Tensor:
    """(B, T) bool from numbers."""
    return mask if mask.dtype == torch.bool else mask != 0


def row_counts(mask: torch.Tensor) -> torch.Tensor:
    """(B,) trained tokens of each row."""
    # A few rows at a time: `sum` makes an int64 copy of what it counts.
    return torch.cat([part.sum(-1) for part in mask.split(16)]) if len(mask) else mask.sum(-1)


def shares(
    mode: str,
    mask: torch.Tensor,
    counts: torch.Tensor,
    dtype: torch.dtype,
    *,
    dp_size: int = 1,
    batch_num_tokens: int | torch.Tensor | None = None,
    global_batch_size: int | torch.Tensor | None = None,
    loss_scale_factor: float | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | float]:
    """What each token's loss is multiplied by, (B, 1) or (B, T), `None` for 1; and what the sum is divided by.

    Args: as in `agg_loss`; the mask is bool, `counts` (B,) its `row_counts`. `mode` may also be `row-mean`: the mean
    over all rows, those without a trained token included, of the mean over their tokens.
    """
    counts = counts[:, None]
    if mode == "row-mean":
        return 1.0 / counts.clamp(min=1).to(dtype), float(len(mask))
    if mode == "token-sum":
        return None, 1.0 / dp_size
    if mode not in AGG_MODES:
        raise _unknown(mode)
    name, given = (
        ("batch_num_tokens", batch_num_tokens) if mode == "token-mean" else ("global_batch_size", global_batch_size)
    )
    if given is None and dp_size > 1:
        raise ValueError(f"`{name}` is needed when `dp_size` is {dp_size}: give the number of all workers together")
    if mode == "token-mean":
        return None, (counts.sum() if given is None else given) / dp_size
    rows = ((counts > 0).sum() if given is None else given) / dp_size
    if mode == "seq-mean-token-sum":
        return None, rows
    if mode == "seq-mean-token-sum-norm":
        return None, rows * (loss_scale_factor or mask.shape[-1])
    if mode == "seq-mean-token-mean":
        return 1.0 / (counts.to(dtype) + 1e-8), rows
    return _turn_shares(mask).to(dtype), rows


def _turn_shares(mask: torch.Tensor) -> torch.Tensor:
    """(B, T) one over (turns of the row x tokens of the turn); a turn is an unbroken run of the mask."""
    starts = mask.clone()
    starts[:, 1:] &= ~mask[:, :-1]
    turn = starts.cumsum(-1)  # numbered from 1; unmasked tokens in between carry the number of the turn before
    lengths = torch.zeros(mask.shape[0], mask.shape[1] + 1, dtype=torch.long, device=mask.device)
    lengths.scatter_add_(1, turn, mask.long())
    return 1.0 / (lengths.gather(1, turn).clamp(min=1) * turn[:, -1:].clamp(min=1)).double()


def _unknown(mode: str) -> ConfigError:
    return ConfigError(f"`loss_agg_mode` {mode!r} is not one of {', '.join(AGG_MODES)}")
