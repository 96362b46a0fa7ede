"""Who executes agents: takes rollouts from the store, runs them, and writes down what happened."""

from .agent_runner import LitAgentRunner
from .base import Runner
from .hooks import Hook

__all__ = ["Hook", "LitAgentRunner", "Runner"]
