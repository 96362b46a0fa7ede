"""Log-probs of given tokens from hidden states, in chunks: the full (N, V) logits never exist at once."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 25
"""Logits computed at a time: 32 M numbers, 128 MiB in fp32."""


def token_logprobs(
    hidden_NH: torch.Tensor,
    head_VH: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    bias_V: torch.Tensor | None = None,
    temperature: float = 1.0,
    with_entropy: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`log softmax((hidden @ head.T + bias) / temperature)` at the targets, in fp32 or better; entropies if asked for.

    A chunk's logits are computed again in the backward pass when there is more than one chunk.

    Returns:
        (N,) log-probs, and (N,) entropies or `None`.
    """
    rows = max(1, chunk_elements // head_VH.shape[0])
    if hidden_NH.shape[0] <= rows:
        return _chunk(hidden_NH, head_VH, bias_V, targets_N, temperature, with_entropy)
    logprobs: list[torch.Tensor] = []
    entropies: list[torch.Tensor] = []
    for hidden, targets in zip(hidden_NH.split(rows), targets_N.split(rows), strict=True):
        logprob, entropy = checkpoint(
            _chunk, hidden, head_VH, bias_V, targets, temperature, with_entropy, use_reentrant=False
        )
        logprobs.append(logprob)
        if entropy is not None:
            entropies.append(entropy)
    return torch.cat(logprobs), torch.cat(entropies) if with_entropy else None


def _chunk(
    hidden: torch.Tensor,
    head: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    temperature: float,
    with_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    logits = torch.nn.functional.linear(hidden, head, bias)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    normaliser = torch.logsumexp(logits, -1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
    if not with_entropy:
        return logprobs, None
    return logprobs, normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
