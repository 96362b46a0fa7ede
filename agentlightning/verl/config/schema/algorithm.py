"""`algorithm`: how rewards become advantages."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import field_validator

from .base import Section, Share

ESTIMATORS = ("grpo",)
"""Advantage estimators that come with the package."""


class Algorithm(Section):
    """How rewards become advantages."""

    adv_estimator: str = "grpo"
    """Advantage estimator: `grpo`, or a name registered with `register_adv_est`."""
    norm_adv_by_std_in_grpo: bool = True
    """Divide by the group's standard deviation; False is Dr.GRPO."""
    gamma: Share = 1.0
    """Discount per token; `grpo` does not read it."""
    lam: Share = 1.0
    """Lambda of generalised advantage estimation; `grpo` does not read it."""
    use_kl_in_reward: Literal[False] = False
    """Subtract a KL penalty from the rewards."""

    @field_validator("adv_estimator")
    @classmethod
    def _known(cls, value: str) -> str:
        # The registry lives with torch. Nobody can have registered a name while its module is not loaded.
        registry = sys.modules.get("agentlightning.learner.advantages")
        if value in ESTIMATORS or (registry is not None and value in registry.advantage_estimators()):
            return value
        raise ValueError(f"not built here; possible now: {', '.join(map(repr, ESTIMATORS))}")
