"""Spans: what happened during an attempt. Fields follow Agent-Lightning 0.3 (which follows OpenTelemetry)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import BaseModel, Field

from .otel import (
    Attributes,
    Event,
    Link,
    OtelResource,
    OtelResourceField,
    SpanContext,
    StatusCode,
    TraceStatus,
    plain_attributes,
    seconds,
)
from .tokens import TokenCallField

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class SpanCoreFields(BaseModel):
    """What an agent may hand over for a span; the runner adds which attempt it belongs to."""

    name: str
    attributes: Attributes = Field(default_factory=dict)
    start_time: float | None = None
    end_time: float | None = None
    status: TraceStatus = Field(default_factory=TraceStatus)


class Span(SpanCoreFields):
    """One thing that happened: an LLM call, a reward, a tool call, a log line.

    Spans of an attempt are ordered by `sequence_id`, never by clock.
    """

    rollout_id: str
    attempt_id: str
    sequence_id: int = 0
    """Position within the rollout, from 1. 0 asks the store to number the span on arrival."""
    trace_id: str
    span_id: str
    parent_id: str | None = None
    events: list[Event] = Field(default_factory=list[Event])
    links: list[Link] = Field(default_factory=list[Link])
    resource: OtelResourceField = Field(default_factory=OtelResource)
    token_call: TokenCallField | None = None
    """The exact tokens, on the span of an LLM call whose backend returned them."""

    @property
    def context(self) -> SpanContext:
        """This span as OpenTelemetry names it."""
        return SpanContext(trace_id=self.trace_id, span_id=self.span_id)

    @property
    def parent(self) -> SpanContext | None:
        """The parent span as OpenTelemetry names it, or `None`."""
        return None if self.parent_id is None else SpanContext(trace_id=self.trace_id, span_id=self.parent_id)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        rollout_id: str,
        attempt_id: str,
        attributes: Mapping[str, Any] | None = None,
        sequence_id: int = 0,
        start_time: float | None = None,
        end_time: float | None = None,
        status: TraceStatus | None = None,
        parent_id: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
    ) -> Span:
        """A span with fresh ids, and with now for times that are not given."""
        now = time.time()
        return cls(
            name=name,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=trace_id or secrets.token_hex(16),
            span_id=span_id or secrets.token_hex(8),
            parent_id=parent_id,
            attributes=dict(attributes or {}),
            start_time=now if start_time is None else start_time,
            end_time=now if end_time is None else end_time,
            status=status or TraceStatus(status_code="OK"),
        )

    @classmethod
    def from_attributes(
        cls,
        *,
        attributes: Mapping[str, Any],
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        resource: OtelResource | None = None,
        status: TraceStatus | None = None,
    ) -> Span:
        """A span of these attributes; what is not given is made up (`agentlightning.virtual`, fresh ids, now)."""
        span = cls.create(
            name or SpanNames.VIRTUAL.value,
            rollout_id=rollout_id or "",
            attempt_id=attempt_id or "",
            attributes=attributes,
            sequence_id=sequence_id or 0,
            start_time=start_time,
            end_time=end_time,
            status=status,
            parent_id=parent_id,
            trace_id=trace_id,
            span_id=span_id,
        )
        span.resource = resource or OtelResource()
        return span

    @classmethod
    def from_core_fields(
        cls,
        core: SpanCoreFields,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
    ) -> Span:
        """The span of an attempt that `core`, from an emitter with `propagate=False`, stands for."""
        return cls.from_attributes(
            attributes=core.attributes,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            name=core.name,
            start_time=core.start_time,
            end_time=core.end_time,
            status=core.status,
        )

    @classmethod
    def from_opentelemetry(cls, src: ReadableSpan, rollout_id: str, attempt_id: str, sequence_id: int = 0) -> Self:
        """The span that OpenTelemetry's `src` stands for; times in seconds, ids in hexadecimal.

        Raises:
            ValueError: `src` has no span context.
        """
        if src.context is None:  # pyright: ignore[reportUnnecessaryComparison]  # typed too narrowly there
            raise ValueError(f"the OpenTelemetry span `{src.name}` has no span context, so it has no ids")
        context = SpanContext.from_opentelemetry(src.context)
        return cls(
            name=src.name,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=context.trace_id,
            span_id=context.span_id,
            parent_id=f"{src.parent.span_id:016x}" if src.parent else None,
            attributes=plain_attributes(src.attributes),
            start_time=seconds(src.start_time),
            end_time=seconds(src.end_time),
            status=TraceStatus.from_opentelemetry(src.status),
            events=[Event.from_opentelemetry(event) for event in src.events],
            links=[Link.from_opentelemetry(link) for link in src.links],
            resource=OtelResource.from_opentelemetry(src.resource),
        )


class SpanRecordingContext(Protocol):
    """A span that is under way: what `Tracer.operation_context` gives."""

    def record_exception(self, exception: BaseException) -> None:
        """Note an exception; the span ends as failed."""
        ...

    def record_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        ...

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Say how it went."""
        ...

    def get_recorded_span(self) -> SpanCoreFields:
        """The span as recorded so far; with `end_time` once it has ended."""
        ...


class SpanNames(StrEnum):
    """Names of spans and of resource attributes, as 0.3 groups them; `semconv` has them all."""

    ROLLOUT_ID = "agentlightning.rollout_id"
    ATTEMPT_ID = "agentlightning.attempt_id"
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    REWARD = "agentlightning.reward"
    MESSAGE = "agentlightning.message"
    OBJECT = "agentlightning.object"
    EXCEPTION = "agentlightning.exception"
    VIRTUAL = "agentlightning.virtual"


class SpanAttributeNames(StrEnum):
    """Attribute names of 0.2 that 0.3 still exports; nothing here writes them."""

    MESSAGE = "message"
    OBJECT = "object"


if TYPE_CHECKING:
    SpanLike = Span | ReadableSpan
    RolloutRawResult = float | list[ReadableSpan] | list[Span] | list[SpanCoreFields] | None
else:  # OpenTelemetry's SDK costs 60 ms to import
    SpanLike = Span | Any
    RolloutRawResult = float | list[Any] | list[Span] | list[SpanCoreFields] | None
