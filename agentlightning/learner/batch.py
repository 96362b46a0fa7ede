"""Rows of tokens, and micro-batches packed from them without padding.

A row is one sequence with its loss data per token. A micro-batch lays rows end to end; attention stays within a row
and positions restart (see `inference.attention`). Only the positions whose *next* token is trained go through the
language-model head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agentlightning.types.tokens import Bool, Float32, Int32


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence to learn from. All arrays are (T,); numbers count where `mask` is true."""

    token_ids: Int32
    mask: Bool
    """True on tokens that are trained. Never on the first token: nothing predicts it."""
    weights: Float32
    """The token's share in the mini-batch's loss (`losses.token_weights`)."""
    old_logprobs: Float32 | None = None
    advantages: Float32 | None = None

    def __post_init__(self) -> None:
        if len(self.token_ids) == 0 or bool(self.mask[0]):
            raise ValueError("a row needs a first token that is not trained: nothing predicts it")

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Packed rows on a device. `T` tokens in all, `N` of them trained."""

    input_ids_T: torch.Tensor
    cu_seqlens: list[int]
    """Offsets of the rows in `input_ids_T`, from 0 to T."""
    predict_N: torch.Tensor
    """Positions whose hidden state predicts a trained token."""
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    old_logprobs_N: torch.Tensor
    advantages_N: torch.Tensor


def plan(rows: Sequence[Row], token_budget: int) -> list[list[int]]:
    """Split row indices, in order, into micro-batches of at most `token_budget` tokens (a longer row stands alone)."""
    batches: list[list[int]] = []
    room = 0
    for index, row in enumerate(rows):
        if not batches or len(row) > room:
            batches.append([])
            room = token_budget
        batches[-1].append(index)
        room -= len(row)
    return batches


def pack(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    """Lay rows end to end."""
    lengths = [len(row) for row in rows]
    mask = np.concatenate([row.mask for row in rows])
    trained = np.flatnonzero(mask)
    token_ids = np.concatenate([row.token_ids for row in rows])

    def column(name: str) -> torch.Tensor:
        parts = [getattr(row, name) for row in rows]
        filled = [np.zeros(n, np.float32) if part is None else part for part, n in zip(parts, lengths, strict=True)]
        return torch.from_numpy(np.concatenate(filled)[trained].astype(np.float32)).to(device)

    return MicroBatch(
        input_ids_T=torch.from_numpy(token_ids.astype(np.int64)).to(device),
        cu_seqlens=[0, *np.cumsum(lengths).tolist()],
        predict_N=torch.from_numpy(trained - 1).to(device),
        targets_N=torch.from_numpy(token_ids[trained].astype(np.int64)).to(device),
        weights_N=column("weights"),
        old_logprobs_N=column("old_logprobs"),
        advantages_N=column("advantages"),
    )
