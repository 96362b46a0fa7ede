"""What a program may say in a POST to `AGL_EVENT_URL`, and the emitter that says it. Called by `event_server`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentlightning.emitter import emit_annotation, emit_message, emit_object, emit_reward
from agentlightning.emitter.span import emit_span
from agentlightning.semconv import AGL_EXCEPTION, EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE, EXCEPTION_TYPE
from agentlightning.types import TraceStatus


class BadEvent(ValueError):
    """The body is no event; the message names the field."""


def primary_of(reward: Any) -> str | None:
    """The dimension of a reward that training uses where nobody says it: `reward`, else the first one."""
    if not isinstance(reward, dict):
        return None
    names = [str(name) for name in cast("dict[str, Any]", reward)]
    return "reward" if "reward" in names else next(iter(names), None)


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Described(_Event):
    attributes: dict[str, Any] = Field(default_factory=dict[str, Any])
    """More attributes for the span."""


class RewardEvent(_Described):
    """`emit_reward`: a number, or numbers by dimension (see `primary_of`)."""

    event_type: Literal["reward"]
    value: Any
    primary_key: str | None = None

    def emit(self) -> None:
        primary = self.primary_key or primary_of(self.value)
        emit_reward(self.value, primary_key=primary, attributes=self.attributes)


class AnnotationEvent(_Event):
    """`emit_annotation`."""

    event_type: Literal["annotation"]
    attributes: dict[str, Any]

    def emit(self) -> None:
        emit_annotation(self.attributes)


class MessageEvent(_Described):
    """`emit_message`."""

    event_type: Literal["message"]
    body: str

    def emit(self) -> None:
        emit_message(self.body, attributes=self.attributes)


class ObjectEvent(_Described):
    """`emit_object`."""

    event_type: Literal["object"]
    value: Any

    def emit(self) -> None:
        emit_object(self.value, attributes=self.attributes)


class ExceptionEvent(_Described):
    """`emit_exception`, of an exception of any language."""

    event_type: Literal["exception"]
    message: str
    type: str = "Error"
    traceback: str = ""

    def emit(self) -> None:
        about = {EXCEPTION_TYPE: self.type, EXCEPTION_MESSAGE: self.message, EXCEPTION_STACKTRACE: self.traceback}
        status = TraceStatus(status_code="ERROR", description=self.message)
        emit_span(AGL_EXCEPTION, {**self.attributes, **about}, propagate=True, status=status)


Event: TypeAlias = RewardEvent | AnnotationEvent | MessageEvent | ObjectEvent | ExceptionEvent
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event_type")])


def parse_event(body: bytes) -> Event:
    """The event that a request body is.

    Raises:
        BadEvent: it is none.
    """
    try:
        return _EVENT.validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[0]
        # The first part of the place is the kind of event, which is no field.
        field = ".".join(str(part) for part in found["loc"][1:])
        raise BadEvent(f"`{field}`: {found['msg']}" if field else found["msg"].replace("'", "`")) from error
