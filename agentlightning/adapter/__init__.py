"""From spans to training data: the token graph, trajectories and triplets."""

from typing import Any

from agentlightning.not_built import missing

from .base import Adapter, OtelTraceAdapter, TraceAdapter
from .graph import TokenGraph
from .messages import TraceToMessages
from .training import EpisodeAdapter, episode_adapter
from .trajectory import TraceToEpisodes, episode_from_spans
from .tree import RewardMatchPolicy, TraceTree
from .triplet import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToTripletBase

__all__ = [
    "Adapter",
    "EpisodeAdapter",
    "LlmProxyTraceToTriplet",
    "OtelTraceAdapter",
    "RewardMatchPolicy",
    "TokenGraph",
    "TraceAdapter",
    "TraceToEpisodes",
    "TraceToMessages",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
    "episode_adapter",
    "episode_from_spans",
]


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
