"""From losses per token to one number, as verl's `loss_agg_mode` names it.

Every mode is a weighted sum of token losses whose weights depend on the whole mini-batch only. So the packed step
multiplies each token by its weight and sums: the result can't depend on the split into micro-batches, on the order
of rows, or on how many rows a rollout became.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agentlightning.types import ConfigError
from agentlightning.types.tokens import Float32

AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


def token_weights(
    mode: str,
    tokens_per_rollout: Sequence[int],
    *,
    loss_scale_factor: float | None = None,
) -> Float32:
    """The weight of each token of a rollout, for the rollouts of one mini-batch.

    Args:
        mode: One of `AGG_MODES`. In the `seq-` modes a sequence is a rollout, however many rows it became.
        tokens_per_rollout: (R,) number of trained tokens of each rollout.
        loss_scale_factor: Divisor of `seq-mean-token-sum-norm`; default the longest rollout's token count.

    Returns:
        (R,) weight of every token of that rollout.

    Raises:
        ConfigError: unknown mode.
    """
    counts = np.asarray(tokens_per_rollout, np.float64)
    total, rollouts = max(counts.sum(), 1.0), max(int((counts > 0).sum()), 1)
    if mode == "token-mean":
        weights = np.full_like(counts, 1.0 / total)
    elif mode == "token-sum":
        weights = np.ones_like(counts)
    elif mode == "seq-mean-token-sum":
        weights = np.full_like(counts, 1.0 / rollouts)
    elif mode == "seq-mean-token-sum-norm":
        weights = np.full_like(counts, 1.0 / rollouts / (loss_scale_factor or max(counts.max(initial=1.0), 1.0)))
    elif mode == "seq-mean-token-mean":
        weights = 1.0 / rollouts / np.maximum(counts, 1.0)
    else:
        raise ConfigError(f"`loss_agg_mode` {mode!r} is not one of {', '.join(AGG_MODES)}")
    return weights.astype(np.float32)


def agg_loss(
    loss_mat: torch.Tensor,
    loss_mask: torch.Tensor,
    loss_agg_mode: str,
    *,
    dp_size: int = 1,
    batch_num_tokens: int | None = None,
    global_batch_size: int | None = None,
    loss_scale_factor: float | None = None,
) -> torch.Tensor:
    """The same for padded tensors, each row a sequence (verl's `agg_loss`).

    Args:
        loss_mat: (B, T) losses; what stands where the mask is 0 is ignored, NaN included.
        loss_mask: (B, T).
        dp_size: Number of data-parallel workers; gradients are averaged over them, hence the factor.
        batch_num_tokens: Trained tokens of the whole mini-batch; default those at hand.
        global_batch_size: Sequences of the whole mini-batch; default the rows at hand with a trained token.
        loss_scale_factor: Divisor of `seq-mean-token-sum-norm`; default T.

    Raises:
        ConfigError: unknown mode.
        ValueError: `dp_size` > 1 without the totals of the whole mini-batch.
    """
    mask = loss_mask.to(loss_mat.dtype)
    sums = torch.where(mask > 0, loss_mat, 0.0).sum(-1)
    counts = mask.sum(-1)
    if loss_agg_mode == "token-sum":
        return sums.sum() * dp_size
    if loss_agg_mode == "token-mean":
        if batch_num_tokens is None and dp_size > 1:
            raise ValueError("`batch_num_tokens` is needed when `dp_size` is above 1")
        return sums.sum() / (batch_num_tokens or counts.sum()) * dp_size
    if loss_agg_mode not in AGG_MODES:
        raise ConfigError(f"`loss_agg_mode` {loss_agg_mode!r} is not one of {', '.join(AGG_MODES)}")
    if global_batch_size is None and dp_size > 1:
        raise ValueError("`global_batch_size` is needed when `dp_size` is above 1")
    rows = global_batch_size or (counts > 0).sum()
    if loss_agg_mode == "seq-mean-token-mean":
        sums = sums / (counts + 1e-8)
    elif loss_agg_mode == "seq-mean-token-sum-norm":
        sums = sums / (loss_scale_factor or loss_mat.shape[-1])
    return sums.sum() / rows * dp_size
