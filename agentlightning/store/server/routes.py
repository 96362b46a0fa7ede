"""All routes of the server. `server` hands them to `api`, `openapi` documents them."""

from __future__ import annotations

from .. import batch
from ..base import LightningStore
from ..wire import dump
from . import bodies, metrics, openapi, otlp, registry, rollouts, spans
from .call import JSON, Answer, Call, Handler, Route

PREFIX = "/v1/agl"
_OTLP = (otlp.PROTOBUF, JSON)


async def health(store: LightningStore, call: Call) -> bytes:
    return dump({"status": "ok", "store": type(store).__name__})


async def not_served(store: LightningStore, call: Call) -> Answer:
    """OpenTelemetry's other signals."""
    return Answer(501, dump({"detail": "only traces are taken: `/v1/traces`", "error_type": "NotImplementedError"}))


def all_routes(counted: metrics.Metrics, run_batch: Handler) -> list[Route]:
    """The table.

    Args:
        counted: Served at `/v1/prometheus`.
        run_batch: Handler of the batch route.
    """
    kinds = (batch.CONTENT_TYPE,)
    table = [
        Route("GET", f"{PREFIX}/health", "health", health, answer=bodies.Health),
        *rollouts.routes(PREFIX),
        *spans.routes(PREFIX),
        *registry.routes(PREFIX),
        Route("POST", batch.PATH, "batch", run_batch, bytes, answer=bytes, content=kinds, answer_content=kinds),
        Route(
            "POST", "/v1/traces", "otlp_traces", otlp.serve, bytes, answer=bytes, content=_OTLP, answer_content=_OTLP
        ),
        Route("POST", "/v1/metrics", "otlp_metrics", not_served, status=501),
        Route("POST", "/v1/logs", "otlp_logs", not_served, status=501),
        Route("POST", "/v1/development/profiles", "otlp_profiles", not_served, status=501),
        Route("GET", "/v1/prometheus", "prometheus", counted.serve, answer=bytes, answer_content=("text/plain",)),
    ]
    document = openapi.OpenApi(table)
    table.append(Route("GET", "/openapi.json", "openapi", document.serve, answer=dict[str, object]))
    return table
