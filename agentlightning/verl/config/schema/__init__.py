"""The typed configuration: the keys that the loop in `verl/` uses, under verl's names.

Built by `compose.load_config`, read by the loop. The string under each field says what the field does. Keys of verl
that have no field here are answered or refused by `rules`.
"""

from __future__ import annotations

from pydantic import Field

from .actor import Actor, Optim, PolicyLoss
from .algorithm import Algorithm
from .base import Section
from .data import Data
from .model import Model
from .ours import Ours
from .rollout import MultiTurn, Rollout, ValKwargs
from .trainer import Trainer


class ActorRolloutRef(Section):
    """The model, how it is trained and how it is sampled."""

    model: Model
    """The model to train."""
    actor: Actor = Field(default_factory=Actor)
    """The training step."""
    rollout: Rollout = Field(default_factory=Rollout)
    """The inference engine and how it samples."""


class VerlConfig(Section):
    """The whole configuration of a reinforcement-learning run."""

    actor_rollout_ref: ActorRolloutRef
    """The model, how it is trained and how it is sampled."""
    algorithm: Algorithm = Field(default_factory=Algorithm)
    """How rewards become advantages."""
    data: Data = Field(default_factory=Data)
    """Tasks, batches and lengths."""
    trainer: Trainer = Field(default_factory=Trainer)
    """The outer loop, what it writes and where it runs."""
    agentlightning: Ours = Field(default_factory=Ours)
    """Settings that verl has no key for."""

    def device(self) -> str:
        """torch's name of the device to run on: a GPU where there is one, unless `trainer.device` is `cpu`."""
        import torch

        return "cuda" if self.trainer.device != "cpu" and torch.cuda.is_available() else "cpu"

    def is_deterministic(self) -> bool:
        """Whether equal runs write equal metrics: `agentlightning.deterministic`, by default yes on a CPU."""
        chosen = self.agentlightning.deterministic
        return self.device() == "cpu" if chosen is None else chosen


__all__ = [
    "Actor",
    "ActorRolloutRef",
    "Algorithm",
    "Data",
    "Model",
    "MultiTurn",
    "Optim",
    "Ours",
    "PolicyLoss",
    "Rollout",
    "Section",
    "Trainer",
    "ValKwargs",
    "VerlConfig",
]
