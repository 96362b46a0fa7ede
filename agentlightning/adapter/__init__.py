"""From spans to training data: the token graph, trajectories and triplets."""

from .base import Adapter, TraceAdapter
from .graph import TokenGraph
from .trajectory import TraceToEpisodes, episode_from_spans
from .triplet import LlmProxyTraceToTriplet, TracerTraceToTriplet

__all__ = [
    "Adapter",
    "LlmProxyTraceToTriplet",
    "TokenGraph",
    "TraceAdapter",
    "TraceToEpisodes",
    "TracerTraceToTriplet",
    "episode_from_spans",
]
