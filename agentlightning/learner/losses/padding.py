"""`Padding`: flat tokens as padded rows, for losses and corrections that are written for (B, T) tensors."""

from __future__ import annotations

import torch


class Padding:
    """Flat tokens as rows, one a sequence, in order: sequences ascending, tokens as they come.

    Args:
        sequence_N: Which sequence each of N tokens belongs to.
    """

    def __init__(self, sequence_N: torch.Tensor) -> None:
        _, row_N, counts = torch.unique(sequence_N, return_inverse=True, return_counts=True)
        order = torch.argsort(row_N, stable=True)
        position = torch.empty_like(row_N)
        position[order] = torch.arange(len(row_N), device=row_N.device) - (counts.cumsum(0) - counts)[row_N[order]]
        self.shape = (len(counts), int(counts.max()) if len(counts) else 0)
        """(S, T): sequences that have tokens, and the longest of them."""
        self.mask = torch.arange(self.shape[1], device=row_N.device) < counts[:, None]
        """(S, T) bool, true on a prefix of each row."""
        self._at = row_N * self.shape[1] + position

    def pad(self, values_N: torch.Tensor) -> torch.Tensor:
        """(S, T), 0 where there is no token."""
        flat = values_N.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_copy(0, self._at, values_N).view(self.shape)

    def flat(self, values_BT: torch.Tensor) -> torch.Tensor:
        """(N,) back in the order of the tokens."""
        return values_BT.reshape(-1).index_select(0, self._at)
