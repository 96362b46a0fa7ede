"""`reward`: where rewards come from if the agent gives none, and how they are shaped."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .base import Count, NonNegative, PositiveInt, Section


class CustomRewardFunction(Section):
    """A reward function of your own, for tasks from `data.train_files` in verl's format."""

    path: str | None = None
    """Python file that holds it; null is the built-in rule of the row's `data_source`."""
    name: str = "compute_score"
    """Its name: `def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs)`."""
    reward_kwargs: dict[str, Any] = Field(default_factory=dict[str, Any])
    """More keyword arguments for it."""


class OverlongBuffer(Section):
    """DAPO's soft limit of length: a penalty that grows over the last `len` tokens before the hard one."""

    enable: bool = False
    """Add the penalty to the reward of every rollout."""
    len: Count = 0
    """Tokens of the buffer: the penalty starts at `max_resp_len - len` tokens. Not set: a fifth of `max_resp_len`, as
    in DAPO's recipe."""
    penalty_factor: NonNegative = 1.0
    """The penalty at `max_resp_len` tokens."""
    log: bool = False
    """Log the penalty and the share of rollouts that got one."""


class RewardKwargs(Section):
    """How rewards are shaped."""

    overlong_buffer_cfg: OverlongBuffer = Field(default_factory=OverlongBuffer)
    """DAPO's soft limit of length."""
    max_resp_len: PositiveInt | None = None
    """Length of a response at which the penalty is full; null is `data.max_response_length`."""


class Reward(Section):
    """Where rewards come from if the agent gives none, and how they are shaped."""

    custom_reward_function: CustomRewardFunction = Field(default_factory=CustomRewardFunction)
    """A reward function of your own."""
    reward_kwargs: RewardKwargs = Field(default_factory=RewardKwargs)
    """How rewards are shaped."""
