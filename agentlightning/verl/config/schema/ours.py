"""`agentlightning`: settings that verl has no key for."""

from __future__ import annotations

from typing import Literal

from .base import Float, Positive, PositiveInt, Section


class Ours(Section):
    """Settings that verl has no key for."""

    seed: int = 42
    """Seed of the run: `data.seed`, `actor_rollout_ref.rollout.seed` and `actor_rollout_ref.actor.data_loader_seed`
    follow it where they are not set."""
    deterministic: bool | None = None
    """Equal runs write equal metrics, bit for bit (times aside); null is yes on a CPU, no elsewhere."""
    credit: Literal["identical", "last_turn"] = "identical"
    """How a rollout's reward is spread over its turns: `identical` gives the final reward to
    each, `last_turn` to the last one only."""
    reward_fillna_value: Float = 0.0
    """Reward of a rollout that gave none."""
    rollout_timeout_seconds: Positive | None = 600.0
    """A rollout that runs longer has failed; null waits for ever."""
    threads: PositiveInt | None = None
    """CPU threads of the training step; null is as many as there are physical cores."""
    strict: bool = False
    """Refuse keys whose real thing is not here, instead of listing them at start."""
