"""Rows of tokens, and micro-batches packed from them without padding.

A row is one sequence; its columns hold what the loss wants to know of each trained token. A micro-batch lays rows out
as a forest in which common beginnings stand once (`prefix.py`); a token attends to its own row only, and positions
count along it. Only the positions whose *next* token is trained go through the language-model head, and nothing that
comes after them is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentlightning.inference.attention import run_packed
from agentlightning.inference.tree_attention import TreeContext
from agentlightning.types.tokens import Bool, Float32, Int32

from .prefix import in_order, merge

BATCH_COST = 16
"""What a micro-batch costs beside its tokens, in tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence to learn from: T tokens, N of them trained."""

    token_ids: Int32
    """(T,)"""
    mask: Bool
    """(T,) true on tokens that are trained. Never on the first one: nothing predicts it."""
    columns: Mapping[str, Float32]
    """(N,) each: numbers of the trained tokens by name, such as `weights`, the token's share in the mini-batch's loss,
    `old_logprobs` and `advantages`. An objective says which ones it reads."""
    sequence: int = 0
    """The rollout that the row came from, numbered within its mini-batch: one rollout may be several rows."""

    def __post_init__(self) -> None:
        if len(self.token_ids) == 0 or bool(self.mask[0]):
            raise ValueError("a row needs a first token that is not trained: nothing predicts it")
        trained = self.trained
        for name, column in self.columns.items():
            if len(column) != trained:
                raise ValueError(f"column `{name}` has {len(column)} numbers for {trained} trained tokens")

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def trained(self) -> int:
        """How many tokens are trained, N."""
        return int(np.count_nonzero(self.mask))

    def with_columns(self, **columns: Float32) -> Row:
        """The row with these columns added or replaced."""
        return Row(self.token_ids, self.mask, {**self.columns, **columns}, self.sequence)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tokens:
    """The N trained tokens of some rows as one flat list: what objectives and losses see."""

    columns: Mapping[str, torch.Tensor]
    """(N,) each."""
    sequence_N: torch.Tensor
    """Which rollout each token belongs to."""

    def __len__(self) -> int:
        return len(self.sequence_N)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MicroBatch(Tokens):
    """Packed rows on a device: T tokens in all, N of them trained."""

    input_ids_T: torch.Tensor
    positions_T: torch.Tensor
    """How many tokens come before each one in its row."""
    cu_seqlens: list[int]
    """Offsets of the segments in `input_ids_T`, from 0 to T. A row is a path of segments."""
    parents: list[int]
    """Which segment each one continues, -1 for none."""
    predict_N: torch.Tensor
    """Positions whose hidden state predicts a trained token. Rows that share it may have the same one."""
    targets_N: torch.Tensor


def plan(rows: Sequence[Row], token_budget: int) -> list[list[int]]:
    """Split row indices into micro-batches of at most `token_budget` distinct tokens (a longer row stands alone).

    Rows that begin alike come together, in whatever order: of all ways to cut the sorted rows the one that computes
    the fewest tokens is taken. The largest micro-batch comes first, so that memory runs out at once or never. What
    `pack` computes may be a few in a hundred more, where sharing does not pay.
    """
    used = [_used(row) for row in rows]
    order, shared = in_order(used)
    # Tokens up to each row if none is computed twice; a micro-batch computes anew what its first row shares.
    total = np.cumsum([0, *(len(used[row]) - same for row, same in zip(order, shared, strict=True))])
    anew = np.array(shared)
    cost = np.zeros(len(rows) + 1)
    begin = np.zeros(len(rows) + 1, np.int64)
    for stop in range(1, len(rows) + 1):
        lowest = int(np.searchsorted(total, total[stop] - token_budget))
        starts = np.arange(min(lowest, stop - 1), stop)
        fits = total[stop] - total[starts] + anew[starts] <= token_budget
        fits[-1] = True
        costs = np.where(fits, cost[starts] + anew[starts] + BATCH_COST, np.inf)
        begin[stop] = starts[costs.argmin()]
        cost[stop] = costs.min()
    batches: list[tuple[int, list[int]]] = []
    stop = len(rows)
    while stop:
        start = int(begin[stop])
        batches.append((int(total[stop] - total[start] + anew[start]), order[start:stop]))
        stop = start
    return [batch for _, batch in sorted(batches, key=lambda batch: -batch[0])]


def tokens_of(rows: Sequence[Row], device: torch.device) -> Tokens:
    """The trained tokens of `rows`, in order, with the columns that all rows have."""
    sequence, columns = _flat(rows, device)
    return Tokens(columns=columns, sequence_N=sequence)


def pack(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    """Lay rows out as a forest; the trained tokens stay in the order of `rows`."""
    forest = merge([_used(row) for row in rows])
    predict = [places[np.flatnonzero(row.mask) - 1] for row, places in zip(rows, forest.places, strict=True)]
    targets = np.concatenate([row.token_ids[row.mask] for row in rows])
    sequence, columns = _flat(rows, device)
    return MicroBatch(
        columns=columns,
        sequence_N=sequence,
        input_ids_T=torch.from_numpy(forest.token_ids.astype(np.int64)).to(device),
        positions_T=torch.from_numpy(forest.positions.astype(np.int64)).to(device),
        cu_seqlens=forest.cu_seqlens,
        parents=forest.parents,
        predict_N=torch.from_numpy(np.concatenate(predict)).to(device),
        targets_N=torch.from_numpy(targets.astype(np.int64)).to(device),
    )


def hidden_states(model: Any, batch: MicroBatch) -> torch.Tensor:
    """(T, H) last hidden states of a micro-batch, differentiable; `batch.predict_N` says which ones are read."""
    context = TreeContext(batch.cu_seqlens, batch.parents)
    return run_packed(model, batch.input_ids_T, batch.positions_T, context)


def _used(row: Row) -> Int32:
    """The tokens that are computed: those before the last trained one, at least one."""
    trained = np.flatnonzero(row.mask)
    return row.token_ids[: trained[-1] if len(trained) else 1]


def _flat(rows: Sequence[Row], device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    shared = set(rows[0].columns).intersection(*(row.columns for row in rows[1:]))
    columns = {
        name: torch.from_numpy(np.concatenate([row.columns[name] for row in rows]).astype(np.float32)).to(device)
        for name in sorted(shared)
    }
    sequence = np.repeat([row.sequence for row in rows], [row.trained for row in rows])
    return torch.from_numpy(sequence.astype(np.int64)).to(device), columns
