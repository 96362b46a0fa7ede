"""`critic`: the value model and its training step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .actor import LossAggMode
from .base import Bound, Positive, PositiveInt, Section, Unbounded
from .model import CriticModel, Precision
from .optim import CriticOptim


class Critic(Section):
    """The value model and its training step."""

    enable: bool | None = None
    """Train a value model; null is only where `algorithm.adv_estimator` is `gae`."""
    model: CriticModel = Field(default_factory=CriticModel)
    """What it starts from."""
    optim: CriticOptim = Field(default_factory=CriticOptim)
    """The optimizer and its schedule."""
    ppo_mini_batch_size: PositiveInt = 256
    """Tasks per optimizer step; follows the actor's where it is not set."""
    ppo_epochs: PositiveInt = 1
    """Passes over the batch in one training step; follows the actor's where it is not set."""
    ppo_max_token_len_per_gpu: PositiveInt = 32768
    """Longest micro-batch in tokens. It bounds memory; the gradient does not depend on it."""
    cliprange_value: Bound = 0.5
    """How far a value may move from the old one before its loss is clipped."""
    loss_agg_mode: LossAggMode = "token-mean"
    """How token losses become one number; follows the actor's where it is not set."""
    loss_scale_factor: Positive | None = None
    """Divisor of `seq-mean-token-sum-norm`; follows the actor's where it is not set."""
    grad_clip: Annotated[Unbounded, Field(gt=0)] = 1.0
    """Largest norm of the gradient. verl's `optim.clip_grad` is read as this."""
    fsdp: Precision = Field(default_factory=Precision)
    """The value model's weights; its head is always in fp32."""
