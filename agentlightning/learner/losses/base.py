"""What a policy loss is: a function of each token's numbers, and what it has to see at once.

Each built-in loss is one file of this package and knows nothing of layouts. The training step hands it the trained
tokens as flat vectors, where a sequence is a rollout (`FlatSequences`); `padded.py` hands it padded tensors, where a
sequence is a row (`PaddedSequences`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from .settings import Settings

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before `exp`, as in verl: beyond it every clip is active anyway."""


class Sequences(Protocol):
    """Which of S sequences each token belongs to, whatever the layout of the tokens."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """(S,) sums over the trained tokens of each sequence."""
        ...

    def counts(self) -> torch.Tensor:
        """(S,) trained tokens of each sequence."""
        ...

    def spread(self, values_S: torch.Tensor) -> torch.Tensor:
        """Each token gets its sequence's number; the layout of the tokens."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FlatSequences:
    """N trained tokens in a row, in any order."""

    index_N: torch.Tensor
    number: int
    """S."""

    @classmethod
    def of(cls, index_N: torch.Tensor) -> FlatSequences:
        """Sequences numbered from 0 to the largest number that occurs."""
        return cls(index_N, int(index_N.max()) + 1 if len(index_N) else 0)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """See `Sequences`."""
        return values.new_zeros(self.number).index_add(0, self.index_N, values)

    def counts(self) -> torch.Tensor:
        """See `Sequences`."""
        return torch.bincount(self.index_N, minlength=self.number)

    def spread(self, values_S: torch.Tensor) -> torch.Tensor:
        """See `Sequences`."""
        return values_S.index_select(0, self.index_N)


@dataclass(frozen=True, slots=True, eq=False)
class PaddedSequences:
    """(B, T) tokens, a row each, trained where the mask is true."""

    mask: torch.Tensor

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """See `Sequences`."""
        return torch.where(self.mask, values, 0.0).sum(-1)

    def counts(self) -> torch.Tensor:
        """See `Sequences`."""
        return self.mask.sum(-1)

    def spread(self, values_S: torch.Tensor) -> torch.Tensor:
        """See `Sequences`."""
        return values_S[:, None].expand(self.mask.shape)


@dataclass(frozen=True, slots=True, eq=False)
class PolicyTokens:
    """Tokens as a policy loss sees them; all tensors of one shape. What it says of a token that is not trained is
    ignored."""

    log_prob: torch.Tensor
    """Of the policy in training; the only one with a gradient."""
    old_log_prob: torch.Tensor
    advantages: torch.Tensor
    sequences: Sequences
    rollout_is_weights: torch.Tensor | None = None
    chosen: torch.Tensor | None = None
    """Bool; the tokens that the loss's `choose` picked, for a loss that has one."""

    def with_chosen(self, picked_K: torch.Tensor) -> PolicyTokens:
        """The same, flat tokens, with what `choose` picked."""
        nothing = torch.zeros_like(self.log_prob, dtype=torch.bool)
        return replace(self, chosen=nothing.index_fill_(0, picked_K, True))

    def log_ratio(self) -> torch.Tensor:
        """`log pi - log pi_old`."""
        return self.log_prob - self.old_log_prob

    def clamped_log_ratio(self) -> torch.Tensor:
        """The same within +- `MAX_LOG_RATIO`; no gradient beyond."""
        return self.log_ratio().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


Losses = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Losses and metrics per token; metrics may be bool. A single number stands for a metric's sum over tokens."""

Scope = Literal["token", "sequence", "batch"]


@dataclass(frozen=True, slots=True, eq=False)
class PolicyLoss:
    """A built-in loss: its function and what a caller must know of it."""

    function: Callable[[PolicyTokens, Settings], Losses]
    scope: Scope = "token"
    """What one token's loss depends on: that token alone, its sequence, or the whole mini-batch."""
    proportional: bool = True
    """A token with advantage 0 has no gradient and changes no other token's, so that it need not be computed."""
    aggregation: str | None = None
    """The aggregation that the loss forces, whatever `loss_agg_mode` says: a name for `aggregation.shares`."""
    weighs_sequences: bool = False
    """Importance weights enter as their geometric mean over the sequence."""
    choose: Callable[[PolicyTokens, Settings], torch.Tensor] | None = None
    """Picks tokens by what all trained tokens, flat, look like: (K,) their numbers. The loss gets them as `chosen`."""

    def __call__(self, tokens: PolicyTokens, config: Settings) -> Losses:
        """Losses times importance weights, and metrics."""
        losses, metrics = self.function(tokens, config)
        weights = tokens.rollout_is_weights
        if weights is None:
            return losses, metrics
        if self.weighs_sequences:
            sums, counts = tokens.sequences.total((weights + 1e-10).log()), tokens.sequences.counts()
            weights = tokens.sequences.spread((sums / (counts + 1e-8)).exp())
        return losses * weights, metrics


def clipped_ratio(
    ratio: torch.Tensor, advantages: torch.Tensor, config: Settings, *, dual: float = math.inf
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's ratio, held where its gain must not grow any further, and a mask of where `clip_ratio_*` hold it.

    `-A` times it is `max(-A r, -A clip(r, 1 - low, 1 + high))`: where A > 0 only the upper bound matters, where A < 0
    only the lower one. There `dual` bounds the ratio from above.
    """
    low, high = 1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high
    negative = advantages < 0
    with torch.no_grad():
        held = torch.where(negative, ratio.clamp(low, dual), ratio.clamp(max=high))
        clipped = ((ratio < low) & negative) | ((ratio > high) & (advantages > 0))
    # One `where` whose gradient is the ratio's own; those of `clamp`, `minimum` and `maximum` cost several times that.
    return torch.where(held == ratio, ratio, held), clipped


def side(advantages: torch.Tensor, positive: float, other: float) -> torch.Tensor:
    """`positive` where A > 0, else `other`.

    By arithmetic: on signs in disorder `torch.where` takes ten times as long, and so does a product with a bool.
    """
    above = torch.gt(advantages, 0, out=torch.empty_like(advantages))
    return (1 - above).mul_(other).add_(above, alpha=positive)


def clip_metrics(
    log_ratio: torch.Tensor, clipped: torch.Tensor | None = None, clipped_lower: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """verl's three: `actor/ppo_kl` (the k1 estimate), `actor/pg_clipfrac`, `actor/pg_clipfrac_lower`."""
    nothing = log_ratio.new_zeros(())
    return {
        "actor/ppo_kl": -log_ratio.detach(),
        "actor/pg_clipfrac": nothing if clipped is None else clipped,
        "actor/pg_clipfrac_lower": nothing if clipped_lower is None else clipped_lower,
    }
