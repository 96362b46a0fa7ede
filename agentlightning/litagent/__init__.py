"""Agents: classes that override `LitAgent.rollout`, or functions under `@rollout`."""

from .decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from .litagent import LitAgent, RolloutRawResult

__all__ = ["FunctionalLitAgent", "LitAgent", "RolloutRawResult", "llm_rollout", "prompt_rollout", "rollout"]
