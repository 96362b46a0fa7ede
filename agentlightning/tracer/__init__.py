"""How an agent's behaviour becomes spans. `OtelTracer` is the default; it is imported on first use."""

from typing import TYPE_CHECKING, Any

from .attributes import flatten_attributes
from .base import Tracer, clear_active_tracer, get_active_tracer, set_active_tracer
from .trace import AttemptTrace

if TYPE_CHECKING:
    from .otel import OtelTracer

__all__ = [
    "AttemptTrace",
    "OtelTracer",
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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
