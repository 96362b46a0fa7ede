"""Log-probs, entropies and sums of squared probabilities of given tokens from hidden states: the fused output layer.

`forward.py` and `learner.py` call it on chunks of tokens, so that the full (N, V) logits never exist at once. Small
chunks are also faster on a CPU: their logits stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK = 512
"""Tokens at a time on a CPU. Measured on one thread, 2,048 tokens with gradients and entropies, against autograd on the
whole logits: 1.9 times as fast at vocabulary 4,096, 1.5 times at 8,192, 1.3 times at 32,000, with 40 to 80 percent less
memory. Fewer tokens make the products slower, more leave the cache."""
ACCELERATOR_CHUNK = 2048
"""Tokens at a time elsewhere: large products, and 1.2 GB of float32 logits at a vocabulary of 152,000."""


def chunk_count(tokens: int, device: torch.device) -> int:
    """Into how many even chunks `tokens` are cut, at least 1; products of very few rows would round apart."""
    size = CPU_CHUNK if device.type == "cpu" else ACCELERATOR_CHUNK
    return max(1, -(-tokens // size))


def token_logprobs(
    hidden_NH: Tensor,
    head_VH: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`log softmax((hidden @ head.T + bias) / temperature)` at the targets, in fp32 or better; entropies if asked for.

    Differentiable once. Holds one (N, V) buffer between forward and backward, so call it on chunks.

    Returns:
        (N,) log-probs, and (N,) entropies in nats or `None`.
    """
    result: Any = _TokenLogprobs.apply(hidden_NH, head_VH, bias_V, targets_N, temperature, with_entropy)
    return result


@torch.no_grad()
def token_statistics(
    hidden_NH: Tensor,
    head_VH: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    full: bool = False,
) -> dict[str, Tensor]:
    """What the distribution says of each target, without gradient and in chunks.

    Returns:
        (N,) each: `logprobs`; if `full`, `entropy` in nats and `sum_pi_squared`, the sum of the squared probabilities
        of all tokens.
    """
    found: dict[str, list[Tensor]] = {}
    count = chunk_count(len(targets_N), hidden_NH.device)
    for hidden, targets in zip(hidden_NH.tensor_split(count), targets_N.tensor_split(count), strict=True):
        logp = _log_softmax(hidden, head_VH, bias_V, temperature)
        found.setdefault("logprobs", []).append(_at(logp, targets))
        if full:
            probability = logp.exp()
            found.setdefault("entropy", []).append(_entropy(probability, logp))
            found.setdefault("sum_pi_squared", []).append(torch.linalg.vecdot(probability, probability))
    return {name: torch.cat(parts) for name, parts in found.items()}


class _TokenLogprobs(torch.autograd.Function):
    """With z the logits at temperature 1 and p their softmax at temperature T, in terms of the output gradients g, h:

    d log p_y / dz = (onehot_y - p) / T and d H / dz = -p (log p + H) / T, so that
    dz = (g onehot_y - p (g + h (log p + H))) / T. Autograd would hold four (N, V) buffers for it, this holds one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        logp = _log_softmax(hidden, head, bias, temperature)
        entropy = _entropy(logp.exp(), logp) if with_entropy else None
        ctx.save_for_backward(hidden, head, targets, logp, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return _at(logp, targets), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, head, targets, logp, entropy = ctx.saved_tensors
        scaled = (None if grad is None else grad / ctx.temperature for grad in grads)
        slope = _slope(logp, targets, entropy, *scaled)
        bias = slope.sum(0) if ctx.needs_input_grad[2] else None
        slope = slope.to(head.dtype)
        return (
            slope @ head if ctx.needs_input_grad[0] else None,
            slope.T @ hidden if ctx.needs_input_grad[1] else None,
            None if bias is None else bias.to(head.dtype),
            None,
            None,
            None,
        )


def _slope(
    logp: Tensor, targets: Tensor, entropy: Tensor | None, of_logprob: Tensor | None, of_entropy: Tensor | None
) -> Tensor:
    """(N, V): the gradient with respect to the logits, given those with respect to the outputs over the temperature."""
    slope = logp.exp()
    along = torch.zeros_like(logp[:, 0]) if of_logprob is None else of_logprob
    if of_entropy is None or entropy is None:
        slope.mul_(-along[:, None])
    else:
        slope.mul_((logp + entropy[:, None]).mul_(-of_entropy[:, None]).sub_(along[:, None]))
    return slope.scatter_add_(-1, targets[:, None], along[:, None])


def _log_softmax(hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, head, bias)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if temperature != 1.0:
        logits.div_(temperature)
    return torch.log_softmax(logits, -1)


def _at(logp: Tensor, targets: Tensor) -> Tensor:
    return logp.gather(-1, targets[:, None]).squeeze(-1)


def _entropy(probability: Tensor, logp: Tensor) -> Tensor:
    return -torch.linalg.vecdot(probability, logp)
