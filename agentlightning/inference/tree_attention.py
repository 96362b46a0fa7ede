"""Attention over a forest of token segments: each sees itself causally, and its ancestors whole.

A prompt with eight answers is one segment with eight children: the prompt is computed once. Segments without
ancestors are ordinary packed rows. Called by `attention.packed_hidden_states` and by `learner/batch.py`, which builds
the forest; calls torch. Everything is differentiable and safe under gradient checkpointing.

One `scaled_dot_product_attention` a segment, over its ancestors' keys and its own, was measured on one CPU thread
(4 heads of 64, 8 prompts of 50 and 256 tokens, 8 answers of 64 each; forward and backward of a layer): 38 and 102 ms.
Merging a prefix part and an own part by their log-sum-exp took 41 and 111, siblings padded into one batch 37 and 103,
plain matrix products 51 and 116. Segments are cut with `split`: a slice each would make the backward pass quadratic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 128
"""Most queries under one mask: half of a block's own scores are computed for nothing."""


class TreeContext:
    """The attention of a packed forest (an `attention.AttentionContext`).

    Args:
        cu_seqlens: Where segments begin, then the number of tokens: `[0, 3, 7]` is a segment of 3 and one of 4.
        parents: For each segment the one that it continues, which lies before it, or -1. `None`: nobody has one.
    """

    def __init__(self, cu_seqlens: Sequence[int], parents: Sequence[int] | None = None):
        self.sizes = [end - start for start, end in pairwise(cu_seqlens)]
        self.paths: list[list[int]] = []
        """Segments from the root to each segment, itself included."""
        for index, parent in enumerate(parents or [-1] * len(self.sizes)):
            self.paths.append([*(self.paths[parent] if parent >= 0 else []), index])
        self._longest = max(sum(self.sizes[i] for i in path) for path in self.paths)
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """As `AttentionContext.attend` says."""
        del layer
        gqa = query.shape[1] != key.shape[1]
        queries, keys, values = (x.split(self.sizes, dim=2) for x in (query, key, value))
        parts: list[Tensor] = []
        for path, q in zip(self.paths, queries, strict=True):
            k, v = _along(keys, path), _along(values, path)
            if len(path) == 1 and (window is None or q.shape[2] <= window):
                part = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
                parts.append(part.transpose(1, 2))
                continue
            end = k.shape[2] - q.shape[2]
            for block in q.split(BLOCK, dim=2):
                end += block.shape[2]
                start = 0 if window is None else max(0, end - block.shape[2] - window + 1)
                mask = self._mask(block.shape[2], end - start, window, query)
                part = scaled_dot_product_attention(
                    block, k[:, :, start:end], v[:, :, start:end], attn_mask=mask, scale=scale, enable_gqa=gqa
                )
                parts.append(part.transpose(1, 2))
        return torch.cat(parts, dim=1)

    def _mask(self, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
        """(queries, keys) to be added to the scores; the last query stands at the last key."""
        if window not in self._masks:
            self._masks[window] = _band(min(BLOCK, max(self.sizes)), self._longest, window, like)
        band = self._masks[window]
        last = band.shape[1] - band.shape[0] + queries
        return band[:queries, last - keys : last].contiguous()  # GPU kernels want aligned rows


def _along(parts: Sequence[Tensor], path: list[int]) -> Tensor:
    return parts[path[0]] if len(path) == 1 else torch.cat([parts[i] for i in path], dim=2)


def _band(queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
    """(queries, keys + queries): 0 where query `i` sees a key, which it does up to column `keys + i`; else -inf."""
    back = keys + torch.arange(queries)[:, None] - torch.arange(keys + queries)[None, :]
    seen = back >= 0 if window is None else (back >= 0) & (back < window)
    return torch.zeros(seen.shape).masked_fill(~seen, -torch.inf).to(like)
