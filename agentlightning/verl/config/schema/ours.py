"""`agentlightning`: settings that verl has no key for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .base import Float, Positive, PositiveInt, Section
from .policy import PolicyConfig

Named = Annotated[dict[str, Any], BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
"""A name and parameters, `{name: ..., ...}`; the name alone will do."""


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
    policies: dict[str, PolicyConfig] = Field(default_factory=dict[str, PolicyConfig])
    """Several policies in one run, by the name of their resource: `{planner: {trainable: true, actor_rollout_ref:
    {...}, critic: {...}}}`, each over the common settings. Empty: one, `main_llm`."""
    filter_zero_variance: bool = False
    """Leave out groups whose rollouts all earned the same: they have no advantage, but count in means."""
    spin_pairs: Literal["ranked", "previous"] = "ranked"
    """`online_dpo`: what the best answer to a task is preferred to: the worst of the same step (`ranked`), or
    (`previous`) the worst of those that the policy gave when the task was run the last time, the first time as
    `ranked`. There is no pair where it is no better."""
    curriculum: Named | None = None
    """Choose training tasks by what they earned so far: `success_rate`, or with parameters `{name: success_rate,
    epsilon: 0.02, window: 16}`; null is the order of `data.shuffle`."""
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
