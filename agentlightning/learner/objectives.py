"""What a training step minimises. An objective sees one micro-batch and returns its part of the mini-batch's loss.

Supervised fine-tuning and reinforcement learning are two objectives of one learner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .batch import MicroBatch
from .losses import get_policy_loss


class Objective(Protocol):
    """A sum over the trained tokens of a micro-batch, each with its weight."""

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        ...

    @property
    def needs_entropy(self) -> bool:
        """Whether `entropy_N` is wanted."""
        ...

    def __call__(
        self, batch: MicroBatch, logprobs_N: torch.Tensor, entropy_N: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Parts of the loss by name, to be summed; and metrics as sums over tokens, to be divided by their number."""
        ...


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Supervised fine-tuning: `-sum w log p`."""

    temperature: float = 1.0
    needs_entropy: bool = False

    def __call__(
        self, batch: MicroBatch, logprobs_N: torch.Tensor, entropy_N: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        return {"train/loss": -(batch.weights_N * logprobs_N).sum()}, {"train/nll": -logprobs_N.detach().sum()}


@dataclass(frozen=True, slots=True)
class Policy:
    """Reinforcement learning: a policy loss minus an entropy bonus.

    Args:
        loss_mode: A name in `losses`.
        config: Leaf names of `actor.*` that the loss reads.
        entropy_coeff: Weight of the entropy bonus.
        temperature: Temperature at which the rollouts were sampled.
    """

    loss_mode: str = "vanilla"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    entropy_coeff: float = 0.0
    temperature: float = 1.0
    needs_entropy: bool = True

    def __call__(
        self, batch: MicroBatch, logprobs_N: torch.Tensor, entropy_N: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        losses, metrics = get_policy_loss(self.loss_mode)(
            logprobs_N, batch.old_logprobs_N, batch.advantages_N, self.config
        )
        parts = {"actor/pg_loss": (batch.weights_N * losses).sum()}
        sums = {name: value.sum() for name, value in metrics.items()}
        sums["actor/abs_log_ratio"] = (logprobs_N.detach() - batch.old_logprobs_N).abs().sum()
        if entropy_N is not None:
            sums["actor/entropy"] = entropy_N.detach().sum()
            if self.entropy_coeff:
                parts["actor/entropy_loss"] = -self.entropy_coeff * (batch.weights_N * entropy_N).sum()
        return parts, sums
