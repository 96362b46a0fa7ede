"""Agent-Lightning trains any AI agent: `import agentlightning as agl`.

Every public name is imported when it is first used, so importing the package is quick and never imports torch, a web
framework or an agent framework.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import Adapter, LlmProxyTraceToTriplet, TraceAdapter, TracerTraceToTriplet
    from .algorithm import VERL, Algorithm, Baseline, algo
    from .emitter import emit_annotation, emit_exception, emit_message, emit_object, emit_reward, find_final_reward
    from .execution import ExecutionStrategy, SharedMemoryExecutionStrategy
    from .learner.tiny_model import tiny_model
    from .litagent import LitAgent, llm_rollout, prompt_rollout, rollout
    from .llm_proxy import LLMProxy
    from .runner import Hook, LitAgentRunner, Runner
    from .store import InMemoryLightningStore, LightningStore, SqlLightningStore
    from .tracer import OtelTracer, Tracer
    from .trainer import Trainer
    from .types import (
        LLM,
        AgentLightningError,
        Attempt,
        AttemptedRollout,
        ConfigError,
        Dataset,
        DatasetError,
        EnqueueRolloutRequest,
        Episode,
        ModelError,
        NamedResources,
        PromptTemplate,
        ProxyLLM,
        ResourcesUpdate,
        Rollout,
        RolloutConfig,
        Span,
        TokenCall,
        TrainingError,
        Trajectory,
        Triplet,
        Turn,
    )

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "adapter": ("Adapter", "LlmProxyTraceToTriplet", "TraceAdapter", "TracerTraceToTriplet"),
    "algorithm": ("VERL", "Algorithm", "Baseline", "algo"),
    "emitter": (
        "emit_annotation",
        "emit_exception",
        "emit_message",
        "emit_object",
        "emit_reward",
        "find_final_reward",
    ),
    "execution": ("ExecutionStrategy", "SharedMemoryExecutionStrategy"),
    "learner.tiny_model": ("tiny_model",),
    "litagent": ("LitAgent", "llm_rollout", "prompt_rollout", "rollout"),
    "llm_proxy": ("LLMProxy",),
    "runner": ("Hook", "LitAgentRunner", "Runner"),
    "store": ("InMemoryLightningStore", "LightningStore", "SqlLightningStore"),
    "tracer": ("OtelTracer", "Tracer"),
    "trainer": ("Trainer",),
    "types": (
        "LLM",
        "AgentLightningError",
        "Attempt",
        "AttemptedRollout",
        "ConfigError",
        "Dataset",
        "DatasetError",
        "EnqueueRolloutRequest",
        "Episode",
        "ModelError",
        "NamedResources",
        "PromptTemplate",
        "ProxyLLM",
        "ResourcesUpdate",
        "Rollout",
        "RolloutConfig",
        "Span",
        "TokenCall",
        "TrainingError",
        "Trajectory",
        "Triplet",
        "Turn",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LLM",
    "VERL",
    "Adapter",
    "AgentLightningError",
    "Algorithm",
    "Attempt",
    "AttemptedRollout",
    "Baseline",
    "ConfigError",
    "Dataset",
    "DatasetError",
    "EnqueueRolloutRequest",
    "Episode",
    "ExecutionStrategy",
    "Hook",
    "InMemoryLightningStore",
    "LLMProxy",
    "LightningStore",
    "LitAgent",
    "LitAgentRunner",
    "LlmProxyTraceToTriplet",
    "ModelError",
    "NamedResources",
    "OtelTracer",
    "PromptTemplate",
    "ProxyLLM",
    "ResourcesUpdate",
    "Rollout",
    "RolloutConfig",
    "Runner",
    "SharedMemoryExecutionStrategy",
    "Span",
    "SqlLightningStore",
    "TokenCall",
    "TraceAdapter",
    "Tracer",
    "TracerTraceToTriplet",
    "Trainer",
    "TrainingError",
    "Trajectory",
    "Triplet",
    "Turn",
    "agl",
    "algo",
    "emit_annotation",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "find_final_reward",
    "llm_rollout",
    "prompt_rollout",
    "rollout",
    "tiny_model",
]

agl = sys.modules[__name__]
"""`from agentlightning import agl` gives the package itself."""


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module `agentlightning` has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
