"""Spans: what happened during an attempt. Fields follow Agent-Lightning 0.3 (which follows OpenTelemetry)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from .tokens import TokenCallField

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes = dict[str, AttributeValue]


class TraceStatus(BaseModel):
    status_code: Literal["UNSET", "OK", "ERROR"] = "UNSET"
    description: str | None = None


class Event(BaseModel):
    name: str
    attributes: Attributes = Field(default_factory=dict)
    timestamp: float | None = None
    """Seconds since the epoch."""


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
    resource: Attributes = Field(default_factory=dict)
    token_call: TokenCallField | None = None
    """The exact tokens, on the span of an LLM call whose backend returned them."""

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
