"""Agents: classes that override `LitAgent.rollout`, functions under `@rollout`, and programs as `command`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from .litagent import LitAgent, RolloutRawResult

if TYPE_CHECKING:
    from .command_agent import CommandAgent, CommandFailed, command

__all__ = [
    "CommandAgent",
    "CommandFailed",
    "FunctionalLitAgent",
    "LitAgent",
    "RolloutRawResult",
    "command",
    "llm_rollout",
    "prompt_rollout",
    "rollout",
]


def __getattr__(name: str) -> Any:
    if name in ("CommandAgent", "CommandFailed", "command"):
        from . import command_agent  # brings a web framework, which agents in Python don't need

        return getattr(command_agent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
