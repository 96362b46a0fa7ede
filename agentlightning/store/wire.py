"""The nouns of the store as JSON on the wire, and back. Used by `server` and `client`.

Writing: values that users gave go through `codec`, so that NaN, long integers and numpy survive; the rest is spliced
around them. Reading: pydantic's own JSON parser builds the models, the fastest way there is (4 us a rollout).

Spans have a `context` and `parent` of `null` on the wire, without which the client of Agent-Lightning 0.3 refuses them;
`token_call` is the base64 of its bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Generic, TypeVar

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    Link,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    Span,
    Worker,
)

from .codec import encode

T = TypeVar("T")
_PLAIN: Final = frozenset({str, bool, int})
"""Types of attributes that orjson writes right or refuses, so that they need no pass of their own."""


# -- writing --------------------------------------------------------------------------------------------------------


def raw(field: str, value: Any) -> orjson.Fragment:
    """A user's value, to be spliced. Raises `TypeError` where JSON can't hold it, naming `field`."""
    return orjson.Fragment(encode(field, value))


def dump(value: Any) -> bytes:
    """JSON of plain values and fragments."""
    return orjson.dumps(value)


def dump_list(items: Iterable[T], dump_item: Callable[[T], bytes]) -> bytes:
    """A JSON array."""
    return b"[" + b",".join(map(dump_item, items)) + b"]"


def dump_page(page: PaginatedResult[T], dump_item: Callable[[T], bytes]) -> bytes:
    """`{"items": [...], "limit": ..., "offset": ..., "total": ...}`."""
    tail = b'],"limit":%d,"offset":%d,"total":%d}' % (page.limit, page.offset, page.total)
    return b'{"items":[' + b",".join(map(dump_item, page.items)) + tail


def dump_rollout(rollout: Rollout) -> bytes:
    """A rollout, with its `attempt` if it has one."""
    fields = {**rollout.__dict__, "input": raw("input", rollout.input), "config": rollout.config.__dict__}
    fields["metadata"] = _optional("metadata", rollout.metadata)
    if isinstance(rollout, AttemptedRollout):
        fields["attempt"] = orjson.Fragment(dump_attempt(rollout.attempt))
    return orjson.dumps(fields)


def dump_attempt(attempt: Attempt) -> bytes:
    return orjson.dumps({**attempt.__dict__, "metadata": _optional("metadata", attempt.metadata)})


def dump_worker(worker: Worker) -> bytes:
    stats = _optional("heartbeat_stats", worker.heartbeat_stats)
    return orjson.dumps({**worker.__dict__, "heartbeat_stats": stats})


def dump_resources(update: ResourcesUpdate) -> bytes:
    return update.model_dump_json().encode()


def dump_request(request: EnqueueRolloutRequest) -> bytes:
    """What `enqueue` sends for one rollout."""
    config = None if request.config is None else request.config.__dict__
    fields = {**request.__dict__, "input": raw("input", request.input), "config": config}
    fields["metadata"] = _optional("metadata", request.metadata)
    return orjson.dumps(fields)


def dump_config(config: RolloutConfig) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(config.__dict__))


def dump_span(span: Span) -> bytes:
    fields = _span_fields(span)
    if _is_plain(span):
        with suppress(TypeError):  # a long integer or a lone surrogate
            return orjson.dumps(fields)
    fields["attributes"] = raw("attributes", span.attributes)
    return orjson.dumps(fields)


def dump_spans(spans: Sequence[Span]) -> bytes:
    """A JSON array. Written in one go where that can be: many spans are long, and each copy of them costs."""
    if all(map(_is_plain, spans)):
        with suppress(TypeError):
            return orjson.dumps(list(map(_span_fields, spans)))
    return dump_list(spans, dump_span)


def _is_plain(span: Span) -> bool:
    return _PLAIN.issuperset(map(type, span.attributes.values()))


def _span_fields(span: Span) -> dict[str, Any]:
    call, resource = span.token_call, span.resource
    return {
        **span.__dict__,
        "status": span.status.__dict__,
        "events": [{**event.__dict__, "attributes": raw("events", event.attributes)} for event in span.events],
        "links": [dump_link(link) for link in span.links],
        "resource": {
            "attributes": raw("resource", resource.attributes) if resource.attributes else {},
            "schema_url": resource.schema_url,
        },
        "token_call": None if call is None else base64.b64encode(call.to_bytes()).decode(),
        "context": None,
        "parent": None,
    }


def dump_link(link: Link) -> dict[str, Any]:
    return {"context": link.context.__dict__, "attributes": _optional("links", link.attributes)}


def _optional(field: str, value: Any) -> orjson.Fragment | None:
    return None if value is None else raw(field, value)


# -- reading --------------------------------------------------------------------------------------------------------


WireRollout = Annotated[AttemptedRollout | Rollout, Field(union_mode="left_to_right")]


class Page(TypedDict, Generic[T]):
    """What a query answers."""

    items: list[T]
    limit: int
    offset: int
    total: int


ROLLOUT: Final[TypeAdapter[Rollout]] = TypeAdapter(WireRollout)
ROLLOUTS: Final[TypeAdapter[list[Rollout]]] = TypeAdapter(list[WireRollout])
ROLLOUT_PAGE: Final[TypeAdapter[Page[Rollout]]] = TypeAdapter(Page[WireRollout])
_UNATTEMPTED_PAGE: Final[TypeAdapter[Page[Rollout]]] = TypeAdapter(Page[Rollout])
ATTEMPTED: Final = TypeAdapter(AttemptedRollout)
ATTEMPTED_LIST: Final = TypeAdapter(list[AttemptedRollout])
ATTEMPT: Final = TypeAdapter(Attempt)
ATTEMPTS: Final = TypeAdapter(list[Attempt])
ATTEMPT_PAGE: Final = TypeAdapter(Page[Attempt])
WORKER: Final = TypeAdapter(Worker)
WORKER_PAGE: Final = TypeAdapter(Page[Worker])
RESOURCES: Final = TypeAdapter(ResourcesUpdate)
RESOURCES_PAGE: Final = TypeAdapter(Page[ResourcesUpdate])
SPAN: Final[TypeAdapter[Span]] = TypeAdapter(Span)
SPANS: Final[TypeAdapter[list[Span]]] = TypeAdapter(list[Span])
SPANS_BY_ROLLOUT: Final[TypeAdapter[dict[str, list[Span]]]] = TypeAdapter(dict[str, list[Span]])
SPAN_PAGE: Final[TypeAdapter[Page[Span]]] = TypeAdapter(Page[Span])


def page_of(page: Page[T]) -> PaginatedResult[T]:
    """The page as callers of a store get it."""
    return PaginatedResult.model_construct(**page)  # not of `[T]`, which takes longer than the rest


def parse_rollouts(body: bytes) -> PaginatedResult[Rollout]:
    """The page of rollouts that `body` is the JSON of. Raises `ValidationError`."""
    # To find out for each rollout that it has no attempt takes as long as to read it.
    return page_of(parse(ROLLOUT_PAGE if b'"attempt":' in body else _UNATTEMPTED_PAGE, body))


def parse(adapter: TypeAdapter[T], body: bytes) -> T:
    """The value that `body` is the JSON of.

    Raises:
        ValidationError: it is not JSON, or not of that shape.
    """
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] != "json_invalid":
            raise
        try:
            value = json.loads(body)  # reads lone surrogates, which pydantic's parser doesn't
        except (ValueError, RecursionError):
            raise error from None
        return adapter.validate_python(value)
