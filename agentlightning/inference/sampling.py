"""What a request may ask of the sampler, what it gets back, and how tokens are drawn.

Called by `engine.py` (drawing) and by everyone who makes requests (`SamplingParams`, `Generation`); calls torch.

A request draws one uniform number per token from its own generator before it starts, and a token is the inverse of
the cumulative distribution at that number. So the same seed gives the same tokens whatever else is in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agentlightning.types import RequestError
from agentlightning.types.tokens import Float32, Int32

MAX_STOPS = 16
"""Most stop strings, and most stop tokens, of one request."""
MAX_TOP_LOGPROBS = 20
"""Most alternatives that can be told for each token."""
NUCLEUS_FIRST = 64
"""How many of the likeliest tokens top-p looks at before it sorts them all, which costs more than a forward pass."""

Likeliest = tuple[tuple[int, float], ...]
"""(K,) the likeliest tokens of one place, the first the likeliest, each with its log-prob."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one response.

    Raises:
        RequestError: a value is out of range; the message names the field.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are drawn; ties at the border all are."""
    top_k: int = 0
    """Only the k likeliest tokens are drawn, of those that `top_p` leaves; ties at the border all are. 0: off."""
    max_tokens: int | None = None
    """Most tokens to sample, the end token included; `None`, or more than fits: as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Strings whose appearance ends the response. The tokens that made them are kept."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the response, beside the model's own end tokens."""
    seed: int | None = None
    """Seed of the uniform numbers; `None`: from the operating system."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to tell for each sampled one."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise _refuse("temperature", self.temperature, "a number from 0 up")
        if not 0 < self.top_p <= 1:
            raise _refuse("top_p", self.top_p, "above 0 and at most 1")
        if self.top_k < 0:
            raise _refuse("top_k", self.top_k, "at least 1, or 0 for all tokens")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise _refuse("max_tokens", self.max_tokens, "at least 1")
        if not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise _refuse("top_logprobs", self.top_logprobs, f"from 0 to {MAX_TOP_LOGPROBS}")
        for name, stops in (("stop", self.stop), ("stop_token_ids", self.stop_token_ids)):
            if len(stops) > MAX_STOPS:
                raise RequestError(f"`{name}` has {len(stops)} entries; at most {MAX_STOPS} are allowed", param=name)
        if not all(0 <= token < 2**31 for token in self.stop_token_ids):
            raise RequestError("`stop_token_ids` holds a number that is no token id", param="stop_token_ids")
        if "" in self.stop:
            raise RequestError("`stop` holds an empty string, which would end every response at once", param="stop")

    def uniforms(self, count: int) -> Float32:
        """(count,) the uniform numbers in [0, 1) that this request's tokens are drawn with."""
        seed = None if self.seed is None else self.seed % 2**64
        return np.random.Generator(np.random.PCG64(seed)).random(count, dtype=np.float32)


def _refuse(name: str, value: object, expected: str) -> RequestError:
    return RequestError(f"`{name}` is {value}; it must be {expected}", param=name)


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """One sampled response."""

    prompt_ids: Int32
    """(P,)"""
    token_ids: Int32
    """(R,) every sampled token, the end token included."""
    logprobs: Float32
    """(R,) natural logs at the sampling temperature, before top-p and top-k; at temperature 1 if `temperature` is 0."""
    finish_reason: Literal["stop", "length"]
    weights_version: int
    temperature: float
    likeliest: tuple[Likeliest, ...] = ()
    """(R,) where `top_logprobs` asked for them; log-probs as in `logprobs`."""


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row. What a row gets depends on that row alone, to the bit.

    Args:
        logits: (B, V) float32.
        temperature: (B,); 0 takes the likeliest token.
        top_p: (B,) in (0, 1], of the whole distribution, whatever `top_k` is.
        top_k: (B,) int64; 0 is off, 1 takes the likeliest token.
        uniform: (B,) in [0, 1).

    Returns:
        (B,) token ids and (B,) their log-probs before top-p and top-k. Where logits are not numbers, neither is the
        log-prob.
    """
    logprobs = torch.log_softmax(logits / torch.where(temperature == 0, 1.0, temperature)[:, None], dim=-1)
    weights = _kept(logprobs.exp(), top_p, top_k)
    cumulative = weights.cumsum(dim=-1)
    aim = (uniform * cumulative[:, -1])[:, None]
    chosen = torch.searchsorted(cumulative, aim, right=True).clamp_(max=logits.shape[1] - 1)
    # Rounding can carry the aim to the very end, where a token of no weight may stand.
    likeliest = ((temperature == 0) | (top_k == 1))[:, None] | (weights.gather(1, chosen) == 0)
    if bool(likeliest.any()):
        chosen = torch.where(likeliest, logits.argmax(dim=-1, keepdim=True), chosen)
    return chosen[:, 0], logprobs.gather(1, chosen)[:, 0]


def likeliest(logits: Tensor, temperature: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row.

    Args:
        logits: (B, V) float32.
        temperature: (B,); 0 counts as 1, as in `sample`.
        count: At most V are given.

    Returns:
        (B, count) token ids and (B, count) log-probs, the likeliest first.
    """
    logprobs = torch.log_softmax(logits / torch.where(temperature == 0, 1.0, temperature)[:, None], dim=-1)
    values, ids = logprobs.topk(min(count, logits.shape[1]), dim=-1)
    return ids, values


def _kept(weights: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """(B, V) the probabilities with 0 for the tokens that top-p or top-k leaves out."""
    borders: list[Tensor] = []
    if bool((top_p < 1).any()):
        borders.append(_nucleus_border(weights, top_p))
    if most := int(top_k.max()):
        ranked = weights.topk(min(most, weights.shape[1]), dim=-1).values
        kth = ranked.gather(1, (top_k - 1).clamp(0, ranked.shape[1] - 1)[:, None])[:, 0]
        borders.append(torch.where(top_k > 0, kth, 0.0))
    for border in borders:
        weights = torch.where(weights >= border[:, None], weights, 0.0)
    return weights


def _nucleus_border(weights: Tensor, top_p: Tensor) -> Tensor:
    """(B,) the probability of the last token that top-p keeps, 0 where `top_p` is 1."""
    border, enough = _border_among(weights, top_p, min(NUCLEUS_FIRST, weights.shape[1]))
    rest = (~enough & (top_p < 1)).nonzero()[:, 0]
    if len(rest):
        border[rest] = _border_among(weights[rest], top_p[rest], weights.shape[1])[0]
    return torch.where(top_p < 1, border, 0.0)


def _border_among(weights: Tensor, top_p: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The border among the `count` likeliest tokens, and whether they have enough probability to hold it; both (B,)."""
    ranked = weights.topk(count, dim=-1).values
    total = ranked.cumsum(dim=-1)
    kept = (total - ranked < top_p[:, None]).sum(dim=-1, keepdim=True)
    return ranked.gather(1, (kept - 1).clamp_(min=0))[:, 0], total[:, -1] >= top_p
