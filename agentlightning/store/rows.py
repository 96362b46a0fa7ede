"""What a home keeps: one flat, immutable row per noun, and the way from the models of `types` to rows and back.

Fields that hold any JSON value are JSON text. Columns of the SQL tables have the same names in the same order, so that
a row is also what a statement takes and gives (`tests/store/test_sql.py` holds this).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    Event,
    Link,
    NamedResources,
    OtelResource,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    TokenCall,
    TraceStatus,
    Worker,
    WorkerStatus,
)

from .codec import decode, encode

LARGEST_SEQUENCE_ID: Final = 2**53
"""Far from the end of a 64-bit column, so that one span's number can't leave the rollout without numbers."""
_RESOURCES: Final[TypeAdapter[NamedResources]] = TypeAdapter(NamedResources)
_EVENTS: Final[TypeAdapter[list[Event]]] = TypeAdapter(list[Event])
_LINKS: Final[TypeAdapter[list[Link]]] = TypeAdapter(list[Link])


class Draft(NamedTuple):
    """A rollout that is yet to be created."""

    input: str
    mode: RolloutMode | None
    resources_id: str | None
    config: str
    metadata: str | None


class RolloutRow(NamedTuple):
    rollout_id: str
    input: str
    start_time: float
    end_time: float | None
    mode: RolloutMode | None
    resources_id: str | None
    status: RolloutStatus
    config: str
    """JSON of what differs from the defaults."""
    metadata: str | None
    attempts: int
    """How many attempts there were."""
    attempt_id: str | None
    """The latest attempt."""
    last_sequence_id: int
    """Largest sequence id that a span of the rollout has or reserved; 0 before the first."""


class AttemptRow(NamedTuple):
    rollout_id: str
    attempt_id: str
    sequence_id: int
    start_time: float
    end_time: float | None
    status: AttemptStatus
    worker_id: str | None
    last_heartbeat_time: float | None
    metadata: str | None


class SpanRow(NamedTuple):
    rollout_id: str
    attempt_id: str
    sequence_id: int
    span_id: str
    trace_id: str
    parent_id: str | None
    name: str
    start_time: float | None
    end_time: float | None
    status: str
    attributes: str
    events: str
    links: str
    resource: str
    token_call: bytes | None


class WorkerRow(NamedTuple):
    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: str | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None


class ResourcesRow(NamedTuple):
    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: str
    changed: int
    """Number of the change that wrote this row; the largest is the latest."""


def encode_config(config: RolloutConfig | None) -> str:
    """The config as `RolloutRow.config` holds it."""
    return "{}" if config is None else encode("config", config.model_dump(exclude_defaults=True))


def decode_config(text: str) -> RolloutConfig:
    """Inverse of `encode_config`; a model of its own each time."""
    return RolloutConfig() if text == "{}" else RolloutConfig.model_validate_json(text)


@lru_cache(maxsize=1024)
def shared_config(text: str) -> RolloutConfig:
    """As `decode_config`, for those who only look at it: most rollouts have one of few configs."""
    return decode_config(text)


def encode_optional(field: str, value: Any) -> str | None:
    """JSON text of `value`, `None` for `None`."""
    return None if value is None else encode(field, value)


def encode_resources(resources: Mapping[str, Any]) -> str:
    """Named resources as JSON text.

    Raises:
        ValueError: a value is no resource.
    """
    return _RESOURCES.dump_json(_RESOURCES.validate_python(dict(resources))).decode()


def rollout_model(row: RolloutRow, attempt: AttemptRow | None) -> Rollout:
    """The rollout, as an `AttemptedRollout` if there is an attempt."""
    # Not `model_construct`, which is half as fast.
    return Rollout.model_validate(_rollout_fields(row)) if attempt is None else attempted_model(row, attempt)


def attempted_model(row: RolloutRow, attempt: AttemptRow) -> AttemptedRollout:
    return AttemptedRollout.model_validate({**_rollout_fields(row), "attempt": _attempt_fields(attempt)})


def _rollout_fields(row: RolloutRow) -> dict[str, Any]:
    return {
        "rollout_id": row.rollout_id,
        "input": decode(row.input),
        "start_time": row.start_time,
        "end_time": row.end_time,
        "mode": row.mode,
        "resources_id": row.resources_id,
        "status": row.status,
        "config": decode_config(row.config),
        "metadata": _decode_optional(row.metadata),
    }


def attempt_model(row: AttemptRow) -> Attempt:
    return Attempt.model_validate(_attempt_fields(row))


def _attempt_fields(row: AttemptRow) -> dict[str, Any]:
    fields = row._asdict()
    fields["metadata"] = _decode_optional(row.metadata)
    return fields


def worker_model(row: WorkerRow) -> Worker:
    fields = row._asdict()
    fields["heartbeat_stats"] = _decode_optional(row.heartbeat_stats)
    return Worker.model_validate(fields)


def resources_model(row: ResourcesRow) -> ResourcesUpdate:
    return ResourcesUpdate(
        resources_id=row.resources_id,
        create_time=row.create_time,
        update_time=row.update_time,
        version=row.version,
        resources=_RESOURCES.validate_json(row.resources),
    )


def span_row(span: Span) -> SpanRow:
    """The row of a span.

    Raises:
        TypeError: an attribute or the resource can't be JSON.
        ValueError: `sequence_id` is negative or too large.
    """
    if not 0 <= span.sequence_id <= LARGEST_SEQUENCE_ID:
        raise ValueError(
            f"`sequence_id` of a span is {span.sequence_id}; give 1 to {LARGEST_SEQUENCE_ID}, or 0 to have it numbered"
        )
    status, resource = span.status, span.resource
    return SpanRow(
        span.rollout_id,
        span.attempt_id,
        span.sequence_id,
        span.span_id,
        span.trace_id,
        span.parent_id,
        span.name,
        span.start_time,
        span.end_time,
        _encode_status(status.status_code, status.description),
        encode("attributes", span.attributes),
        encode("events", _EVENTS.dump_python(span.events)) if span.events else "[]",
        encode("links", _LINKS.dump_python(span.links)) if span.links else "[]",
        _encode_resource(resource) if resource.attributes or resource.schema_url else _NO_RESOURCE,
        None if span.token_call is None else span.token_call.to_bytes(),
    )


@lru_cache(maxsize=256)
def _encode_status(code: str, description: str | None) -> str:
    """Cached: nearly all spans have the same one."""
    return encode("status", {"status_code": code, "description": description})


def _encode_resource(resource: OtelResource) -> str:
    return encode("resource", {"attributes": resource.attributes, "schema_url": resource.schema_url})


_NO_RESOURCE: Final = _encode_resource(OtelResource())


def span_model(row: SpanRow) -> Span:
    return Span.model_construct(
        name=row.name,
        attributes=decode(row.attributes),
        start_time=row.start_time,
        end_time=row.end_time,
        status=TraceStatus.model_construct(**decode(row.status)),
        rollout_id=row.rollout_id,
        attempt_id=row.attempt_id,
        sequence_id=row.sequence_id,
        trace_id=row.trace_id,
        span_id=row.span_id,
        parent_id=row.parent_id,
        events=[] if row.events == "[]" else _EVENTS.validate_python(decode(row.events)),
        links=[] if row.links == "[]" else _LINKS.validate_python(decode(row.links)),
        resource=OtelResource.model_construct(**decode(row.resource)),
        token_call=None if row.token_call is None else TokenCall.from_bytes(row.token_call),
    )


def _decode_optional(text: str | None) -> Any:
    return None if text is None else decode(text)
