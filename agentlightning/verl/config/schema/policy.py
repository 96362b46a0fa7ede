"""`actor_rollout_ref`, and one policy of several: the model, how it is trained and how it is sampled."""

from __future__ import annotations

from pydantic import Field

from .actor import Actor
from .base import Section
from .critic import Critic
from .model import Model
from .rollout import Rollout


class ActorRolloutRef(Section):
    """The model, how it is trained and how it is sampled."""

    model: Model
    """The model to train."""
    actor: Actor = Field(default_factory=Actor)
    """The training step."""
    rollout: Rollout = Field(default_factory=Rollout)
    """The inference engine and how it samples."""


class PolicyConfig(Section):
    """One policy: the common settings with its own over them."""

    trainable: bool = True
    """False serves it and never changes it."""
    actor_rollout_ref: ActorRolloutRef
    """Its model, how it is trained and how it is sampled."""
    critic: Critic = Field(default_factory=Critic)
    """Its value model."""
