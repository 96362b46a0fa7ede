"""How an agent's behaviour becomes spans. `OtelTracer` is the default; it is imported on first use."""

from typing import TYPE_CHECKING, Any

from agentlightning.not_built import missing

from .attributes import flatten_attributes
from .base import Tracer, clear_active_tracer, get_active_tracer, set_active_tracer
from .dummy import DummyTracer
from .recording import SpanRecord
from .trace import AttemptTrace

if TYPE_CHECKING:
    from .otel import OtelTracer

__all__ = [
    "AttemptTrace",
    "DummyTracer",
    "OtelTracer",
    "SpanRecord",
    "Tracer",
    "clear_active_tracer",
    "flatten_attributes",
    "get_active_tracer",
    "set_active_tracer",
]


def __getattr__(name: str) -> Any:
    if name == "OtelTracer":
        from .otel import OtelTracer  # OpenTelemetry's SDK costs 60 ms to import

        return OtelTracer
    raise missing(__name__, name)
