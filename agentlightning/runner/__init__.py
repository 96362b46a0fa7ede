"""Who executes agents: takes rollouts from the store, runs them, and writes down what happened."""

from typing import Any

from agentlightning.not_built import missing

from .agent_runner import LitAgentRunner
from .base import Runner
from .hooks import Hook

__all__ = ["Hook", "LitAgentRunner", "Runner"]


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
