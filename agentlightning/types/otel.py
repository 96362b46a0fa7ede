"""OpenTelemetry's nouns as plain data, and how to read them from OpenTelemetry's own objects.

Called by `span`. Fields follow Agent-Lightning 0.3. OpenTelemetry itself is not imported: the objects are read by their
attributes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, cast

import orjson
from pydantic import BaseModel, BeforeValidator, Field

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes = dict[str, AttributeValue]
TraceState = dict[str, str]
StatusCode = Literal["UNSET", "OK", "ERROR"]


def seconds(nanoseconds: int | None) -> float | None:
    """OpenTelemetry's times as seconds since the epoch."""
    return None if nanoseconds is None else nanoseconds / 1e9


def plain_attributes(values: Mapping[str, Any] | None) -> Attributes:
    """OpenTelemetry's attributes as ours are: lists for tuples, JSON for what is nested; `None` is left out."""
    return {key: _plain(value) for key, value in (values or {}).items() if value is not None}


def _plain(value: Any) -> AttributeValue:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        items = list(cast("Sequence[Any]", value))
        if len({type(item) for item in items}) <= 1 and all(
            isinstance(item, (str, bool, int, float)) for item in items
        ):
            return items
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    try:
        return orjson.dumps(value, default=_jsonable, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # beyond JSON: an integer of more than 64 bits, a lone surrogate
        return str(value)


def _jsonable(value: Any) -> Any:
    """What OpenTelemetry's attributes hold and JSON does not."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return dict(cast("Mapping[Any, Any]", value)) if isinstance(value, Mapping) else str(value)


class SpanContext(BaseModel):
    """Which span of which trace: ids in hexadecimal (32 and 16 digits)."""

    trace_id: str
    span_id: str
    is_remote: bool = False
    trace_state: TraceState = Field(default_factory=dict)

    @classmethod
    def from_opentelemetry(cls, src: Any) -> Self:
        """From an `opentelemetry.trace.SpanContext`."""
        return cls(
            trace_id=f"{src.trace_id:032x}",
            span_id=f"{src.span_id:016x}",
            is_remote=src.is_remote,
            trace_state=dict(src.trace_state or {}),
        )


class TraceStatus(BaseModel):
    """How a span ended."""

    status_code: StatusCode = "UNSET"
    description: str | None = None

    @classmethod
    def from_opentelemetry(cls, src: Any) -> Self:
        """From an `opentelemetry.trace.Status`."""
        return cls(status_code=src.status_code.name, description=src.description)


class Event(BaseModel):
    """Something that happened at one moment of a span, such as an exception."""

    name: str
    attributes: Attributes = Field(default_factory=dict)
    timestamp: float | None = None
    """Seconds since the epoch."""

    @classmethod
    def from_opentelemetry(cls, src: Any) -> Self:
        """From an `opentelemetry.sdk.trace.Event`."""
        return cls(name=src.name, attributes=plain_attributes(src.attributes), timestamp=seconds(src.timestamp))


class Link(BaseModel):
    """From one span to another, mostly of another trace."""

    context: SpanContext
    attributes: Attributes | None = None

    @classmethod
    def from_opentelemetry(cls, src: Any) -> Self:
        """From an `opentelemetry.trace.Link`."""
        attributes = plain_attributes(src.attributes) if src.attributes else None
        return cls(context=SpanContext.from_opentelemetry(src.context), attributes=attributes)


class OtelResource(BaseModel):
    """What a span says about the program that made it."""

    attributes: Attributes = Field(default_factory=dict)
    schema_url: str = ""

    @classmethod
    def from_opentelemetry(cls, src: Any) -> Self:
        """From an `opentelemetry.sdk.resources.Resource`."""
        return cls(attributes=plain_attributes(src.attributes), schema_url=src.schema_url or "")


def _resource(value: Any) -> Any:
    # Callers that have only the attributes may give them as they are.
    if isinstance(value, Mapping) and not isinstance(cast(Any, value).get("attributes"), Mapping):
        return OtelResource(attributes=dict(cast("Mapping[str, Any]", value)))
    return cast(Any, value)


OtelResourceField = Annotated[OtelResource, BeforeValidator(_resource)]
