"""`actor_rollout_ref.actor`: the training step."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from pydantic import Field, Strict, field_validator

from .base import Float, NonNegative, Positive, PositiveInt, Section, Share

POLICY_LOSSES = ("vanilla",)
"""Policy losses that come with the package."""


class Optim(Section):
    """The optimizer and its schedule."""

    optimizer: Literal["AdamW"] = "AdamW"
    """Optimizer of `torch.optim`."""
    lr: NonNegative = 1e-6
    """Learning rate after warm-up."""
    betas: Annotated[tuple[Share, Share], Strict(False)] = (0.9, 0.999)
    """Decay of AdamW's first and second moment."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    lr_warmup_steps: int = -1
    """Training steps of linear warm-up from 0; above 0 it wins over the ratio."""
    lr_warmup_steps_ratio: Share = 0.0
    """Warm-up as a share of all training steps."""
    lr_scheduler_type: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    min_lr_ratio: Share = 0.0
    """Where the cosine ends, as a share of `lr`."""
    num_cycles: Positive = 0.5
    """Cosine waves of the run; 0.5 goes down once."""
    total_training_steps: int = -1
    """Length of the schedule in training steps; -1 is the length of the run."""


class PolicyLoss(Section):
    """The policy loss."""

    loss_mode: str = "vanilla"
    """Policy loss: `vanilla` (PPO's clipped surrogate), or a name registered with `register_policy_loss`."""

    @field_validator("loss_mode")
    @classmethod
    def _known(cls, value: str) -> str:
        # As for `algorithm.adv_estimator`: no module, no registered name.
        registry = sys.modules.get("agentlightning.learner.losses")
        if value in POLICY_LOSSES or (registry is not None and value in registry.policy_losses()):
            return value
        raise ValueError(f"not built here; possible now: {', '.join(map(repr, POLICY_LOSSES))}")


class Actor(Section):
    """The training step."""

    ppo_mini_batch_size: PositiveInt = 256
    """Tasks per optimizer step (their `n` rollouts go together). Not set: at most `data.train_batch_size`."""
    ppo_epochs: PositiveInt = 1
    """Passes over the batch in one training step."""
    ppo_max_token_len_per_gpu: PositiveInt = 16384
    """Longest micro-batch in tokens. It bounds memory; the gradient does not depend on it."""
    shuffle: bool = False
    """Shuffle the batch before it is split into mini-batches."""
    data_loader_seed: int = 42
    """Seed of that shuffling; follows `agentlightning.seed` where it is not set."""
    clip_ratio: NonNegative = 0.2
    """PPO's clip range. Set alone it is both bounds below."""
    clip_ratio_low: NonNegative = 0.2
    """How far the probability ratio may go below 1."""
    clip_ratio_high: NonNegative = 0.2
    """How far the probability ratio may go above 1; larger than the lower bound is DAPO's clip-higher."""
    clip_ratio_c: Annotated[Float, Field(gt=1)] = 3.0
    """Dual clip: bound of the ratio where the advantage is negative."""
    loss_agg_mode: Literal[
        "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"
    ] = "token-mean"
    """How token losses become one number; in the `seq-` modes a sequence is a rollout."""
    loss_scale_factor: Positive | None = None
    """Divisor of `seq-mean-token-sum-norm`; null is the longest rollout's token count."""
    entropy_coeff: Float = 0.0
    """Weight of the entropy bonus."""
    use_kl_loss: Literal[False] = False
    """Add a KL term against a reference model to the loss."""
    grad_clip: Positive = 1.0
    """Largest norm of the gradient. verl's `optim.clip_grad` is read as this."""
    optim: Optim = Field(default_factory=Optim)
    """The optimizer and its schedule."""
    policy_loss: PolicyLoss = Field(default_factory=PolicyLoss)
    """The policy loss."""
