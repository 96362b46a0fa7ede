"""Keys and values of live requests in preallocated slots, and the engine's attention over them.

Called by `engine.py`, which says what each step computes (`StepLayout`); calls torch and `attention.py`'s protocol.

The result for a token depends to the bit on that token and those before it, not on what else is in the batch, on
the slot, or on whether it came in a prefill or in decoding. That is what lets one request share another's keys and
values and lets a killed run be repeated exactly. It rests on three things, measured on x86 with MKL on one thread
and held by `tests/inference/test_invariance.py`:

- Matrix products are row-invariant from 4 rows up: queries are padded to `MIN_ROWS`, packed rows to `ROW_MULTIPLE`
  (which also keeps the scalar tails of vectorised functions away from real rows).
- Probabilities times values is summed in pieces of `PIECE` keys. One product over all keys would be split by the
  library at places that depend on their number, which depends on the longest request in the batch.
- Keys beyond a token's own weigh exactly zero, and adding zeros changes nothing within a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_ROWS = 4
"""Fewest query rows of a matrix product."""
ROW_MULTIPLE = 8
"""Packed rows are padded to a multiple of this."""
PIECE = 128
"""Keys per product of probabilities and values, and queries per block of a prefill."""
EXTENT = 32
"""Attention covers a multiple of this many keys."""


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


@dataclass(frozen=True, slots=True)
class StepLayout:
    """The packed row of one forward pass.

    The first `rows` tokens are the last ones of slots 0, 1, ..., `rows - 1`; then come, slot by slot, the tokens that
    go before them; then padding up to `ROW_MULTIPLE`.
    """

    rows: int
    """B, how many slots take part."""
    slots: NDArray[np.int64]
    """(N,) the slot of each token, padding left out."""
    positions: NDArray[np.int64]
    """(N,) where in its slot each token stands."""
    runs: list[tuple[int, int, int]]
    """Slot, start and end in the packed row of each run of tokens after the first `rows`."""

    @property
    def tokens(self) -> int:
        """T, padding included."""
        return round_up(len(self.slots), ROW_MULTIPLE)


class SlotPool:
    """Keys and values of every layer: `kv[layer, 0 or 1, slot, head, position]`, D numbers each."""

    def __init__(
        self, *, layers: int, slots: int, heads: int, context: int, dim: int, dtype: torch.dtype, device: torch.device
    ):
        shape = (layers, 2, slots, heads, round_up(context, EXTENT), dim)
        if device.type == "cpu" and dtype == torch.float32:
            # numpy gets zero pages that cost no memory before they are written; torch writes them all.
            self.kv = torch.from_numpy(np.zeros(shape, dtype=np.float32))
        else:
            self.kv = torch.zeros(shape, dtype=dtype, device=device)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` positions of one slot to another."""
        self.kv[:, :, target, :, :count].copy_(self.kv[:, :, source, :, :count])

    def swap(self, one: int, other: int, one_count: int, other_count: int) -> None:
        """Exchange what two slots hold: their first `one_count` and `other_count` positions."""
        kept = self.kv[:, :, one, :, :one_count].clone()
        self.copy(other, one, other_count)
        self.kv[:, :, other, :, :one_count].copy_(kept)

    def clear(self, slot: int) -> None:
        """Zero a slot: a stored NaN would spoil whoever has the slot next, even at weight zero."""
        self.kv[:, :, slot].zero_()


class SlotContext:
    """The attention of one step: stores new keys and values in their slots, then attends over the slots."""

    def __init__(self, pool: SlotPool, layout: StepLayout):
        self.pool = pool
        self.layout = layout
        _, _, _, heads, context, _ = pool.kv.shape
        device = pool.kv.device
        slots, positions = (torch.from_numpy(x).to(device) for x in (layout.slots, layout.positions))
        self._rows_of_heads = ((slots[:, None] * heads + torch.arange(heads, device=device)) * context).add_(
            positions[:, None]
        )
        self._rows_of_heads = self._rows_of_heads.view(-1)
        self._last_mask = _mask(positions[: layout.rows])[:, None, None]
        self._blocks = [block for run in layout.runs for block in _blocks(run, positions)]
        self._padded: Tensor | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """See `AttentionContext`. `window` never binds: the engine's context is no longer than it."""
        del window
        keys, values = self.pool.kv[layer]
        count, dim = len(self.layout.slots), query.shape[-1]
        for store, new in ((keys, key), (values, value)):
            store.view(-1, dim).index_copy_(
                0, self._rows_of_heads, new[0, :, :count].transpose(0, 1).reshape(-1, dim).to(store.dtype)
            )
        query = query[0] * scale
        out = torch.zeros((query.shape[1], query.shape[0], dim), dtype=query.dtype, device=query.device)
        rows = self.layout.rows
        out[:rows] = self._attend_last(query[:, :rows], keys[:rows], values[:rows])
        for slot, start, end, mask in self._blocks:
            out[start:end] = _attend_block(query[:, start:end], keys[slot], values[slot], mask)
        return out[None]

    def _attend_last(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One query for each slot: (H, B, D) and (B, KV, S, D) twice give (B, H, D)."""
        (heads, rows, dim), kv_heads, extent = query.shape, keys.shape[1], self._last_mask.shape[-1]
        group = heads // kv_heads
        if self._padded is None:
            self._padded = query.new_zeros((rows, kv_heads, max(group, MIN_ROWS), dim))
        self._padded[:, :, :group] = query.view(kv_heads, group, rows, dim).permute(2, 0, 1, 3)
        out = _attention(
            self._padded.flatten(0, 1),
            keys[:, :, :extent].flatten(0, 1),
            values[:, :, :extent].flatten(0, 1),
            self._last_mask,
            (rows, kv_heads, max(group, MIN_ROWS), extent),
        )
        return out.view(rows, kv_heads, -1, dim)[:, :, :group].reshape(rows, heads, dim)


def _attend_block(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Queries of one slot: (H, M, D), (KV, S, D) twice and (M or more, E) give (M, H, D)."""
    (heads, count, dim), kv_heads = query.shape, keys.shape[0]
    rows, extent = mask.shape
    if rows > count:
        query = torch.cat([query, query.new_zeros((heads, rows - count, dim))], dim=1)
    group = heads // kv_heads
    out = _attention(
        query.reshape(kv_heads, group * rows, dim),
        keys[:, :extent],
        values[:, :extent],
        mask,
        (kv_heads, group, rows, extent),
    )
    return out.view(heads, rows, dim)[:, :count].transpose(0, 1)


def _attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """(N, R, D) queries over (N, E, D) keys and values; `shape` is what the scores are seen as to add `mask`."""
    scores = torch.bmm(query, keys.transpose(1, 2))
    scores.view(shape).add_(mask)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
    out = torch.bmm(weights[:, :, :PIECE], values[:, :PIECE])
    for start in range(PIECE, keys.shape[1], PIECE):
        out.baddbmm_(weights[:, :, start : start + PIECE], values[:, start : start + PIECE])
    return out


def _blocks(run: tuple[int, int, int], positions: Tensor) -> list[tuple[int, int, int, Tensor]]:
    """Cut a run into blocks of at most `PIECE` queries, each with its mask."""
    slot, start, end = run
    blocks: list[tuple[int, int, int, Tensor]] = []
    for first in range(start, end, PIECE):
        last = min(first + PIECE, end)
        at = positions[first:last]
        if last - first < MIN_ROWS:
            at = torch.cat([at, at[-1:].expand(MIN_ROWS - (last - first))])
        blocks.append((slot, first, last, _mask(at)))
    return blocks


def _mask(positions: Tensor) -> Tensor:
    """(N, E) what to add to the scores so that a token at each position sees itself and what is before it."""
    extent = round_up(int(positions.max()) + 1, EXTENT)
    beyond = torch.arange(extent, device=positions.device) > positions[:, None]
    return torch.zeros(beyond.shape, device=positions.device).masked_fill_(beyond, float("-inf"))
