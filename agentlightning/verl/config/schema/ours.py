"""`agentlightning`: settings that verl has no key for."""

from __future__ import annotations

from typing import Any

from .base import Float, Positive, PositiveInt, Section


class Ours(Section):
    """Settings that verl has no key for."""

    seed: int = 42
    """Seed of the run: `data.seed`, `actor_rollout_ref.rollout.seed` and `actor_rollout_ref.actor.data_loader_seed`
    follow it where they are not set."""
    deterministic: bool | None = None
    """Equal runs write equal metrics, bit for bit (times aside); null is yes on a CPU, no elsewhere."""
    credit: str | dict[str, Any] = "identical"
    """What each turn of a rollout earned: the name of a rule in `agentlightning.credit`, such as `identical` (the final
    reward) or `last_turn`, or with parameters `{name: discounted, gamma: 0.9}`."""
    reward_fillna_value: Float = 0.0
    """Reward of a rollout that gave none."""
    retokenize: bool = False
    """Train on calls whose backend gave no token ids, with tokens made again from their text and log-probs of the
    present weights. Not exact: nobody knows what was sampled. Else rollouts with such calls are left out."""
    rollout_timeout_seconds: Positive | None = 600.0
    """A rollout that runs longer has failed; null waits for ever."""
    threads: PositiveInt | None = None
    """CPU threads of the training step; null is as many as there are physical cores."""
    strict: bool = False
    """Refuse keys whose real thing is not here, instead of listing them at start."""
