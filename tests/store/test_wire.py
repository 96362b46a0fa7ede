"""Nouns as JSON and back: everything survives, and any JSON reader can read it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentlightning.store import wire
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    Event,
    Link,
    OtelResource,
    PaginatedResult,
    Rollout,
    RolloutConfig,
    Span,
    SpanContext,
    TraceStatus,
    Worker,
)

from .helpers import token_call

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=10)
ATTRIBUTES = st.dictionaries(TEXT, TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False))
CONFIGS = st.builds(
    RolloutConfig,
    timeout_seconds=st.none() | st.floats(0.1, 1e6),
    max_attempts=st.integers(1, 9),
    retry_condition=st.lists(st.sampled_from(["timeout", "failed"])),
)


def attempt(**fields: Any) -> Attempt:
    return Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=2.5, **fields)


@given(JSON, st.none() | st.dictionaries(TEXT, JSON), CONFIGS)
def test_rollouts(given: Any, metadata: dict[str, Any] | None, config: RolloutConfig):
    fields: dict[str, Any] = {"rollout_id": "ro-1", "input": given, "start_time": 1.5, "metadata": metadata}
    plain = Rollout(**fields, config=config)
    assert wire.parse(wire.ROLLOUT, wire.dump_rollout(plain)) == plain
    whole = AttemptedRollout(**fields, config=config, attempt=attempt(metadata=metadata))
    assert wire.parse(wire.ROLLOUT, wire.dump_rollout(whole)) == whole
    assert wire.parse(wire.ATTEMPTED, wire.dump_rollout(whole)) == whole


@given(ATTRIBUTES, ATTRIBUTES, st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.booleans())
def test_spans(attributes: dict[str, Any], resource: dict[str, Any], start: float | None, tokens: bool):
    span = Span(
        name="n",
        attributes=attributes,
        start_time=start,
        status=TraceStatus(status_code="ERROR", description="d"),
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=3,
        trace_id="t",
        span_id="s",
        parent_id="p",
        events=[Event(name="e", attributes=attributes, timestamp=1.0)],
        links=[Link(context=SpanContext(trace_id="t", span_id="s", trace_state={"a": "b"}), attributes=resource)],
        resource=OtelResource(attributes=resource, schema_url="u"),
        token_call=token_call() if tokens else None,
    )
    back = wire.parse(wire.SPAN, wire.dump_span(span))
    assert back.model_copy(update={"token_call": None}) == span.model_copy(update={"token_call": None})
    assert (back.token_call is None) == (span.token_call is None)
    if back.token_call is not None:
        assert back.token_call.to_bytes() == token_call().to_bytes()


def test_values_that_strict_json_has_no_words_for():
    given = {"nan": math.nan, "inf": [math.inf, -math.inf], "big": 10**40, "half": "\ud800", "array": np.arange(3)}
    request = EnqueueRolloutRequest(input=given, metadata={"x": np.float32(0.5)})
    body = wire.dump_request(request)
    back = wire.parse(wire.TypeAdapter(EnqueueRolloutRequest), body)
    assert math.isnan(back.input.pop("nan"))
    assert back.input == {"inf": [math.inf, -math.inf], "big": 10**40, "half": "\ud800", "array": [0, 1, 2]}
    assert back.metadata == {"x": 0.5}


LINK = Link(context=SpanContext(trace_id="t", span_id="l"), attributes={"why": 1.5})
PLAIN = Span.create("plain", rollout_id="r", attempt_id="a", attributes={"text": "x", "yes": True, "number": 7})
RICH = PLAIN.model_copy(
    update={"links": [LINK], "token_call": token_call(), "status": TraceStatus(status_code="ERROR")}
)


@pytest.mark.parametrize(
    "odd", [None, {"odd": math.inf}, {"odd": 2**70}, {"odd": "\ud800"}, {"odd": [1.5, math.nan]}, {"odd": 0.5}]
)
def test_many_spans_are_written_as_each_of_them_is(odd: dict[str, Any] | None):
    spans = [PLAIN, RICH] if odd is None else [PLAIN, PLAIN.model_copy(update={"attributes": odd}), RICH]
    written = wire.dump_spans(spans)
    assert written == wire.dump_list(spans, wire.dump_span)
    assert len(wire.parse(wire.SPANS, written)) == len(spans)
    assert wire.dump_spans([]) == b"[]"


@pytest.mark.parametrize("attempted", [(False, False), (True, False), (True, True)])
def test_a_page_of_rollouts_keeps_the_attempts_that_there_are(attempted: tuple[bool, ...]):
    fields: dict[str, Any] = {"rollout_id": "ro-1", "input": {"attempt": 1}, "start_time": 1.5}
    rollouts = [AttemptedRollout(**fields, attempt=attempt()) if each else Rollout(**fields) for each in attempted]
    page = PaginatedResult[Rollout](items=rollouts, limit=5, offset=1, total=9)
    read = wire.parse_rollouts(wire.dump_page(page, wire.dump_rollout))
    assert (list(read), read.limit, read.offset, read.total) == (rollouts, 5, 1, 9)
    assert [type(rollout) for rollout in read] == [type(rollout) for rollout in rollouts]


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"`input\.x`"):
        wire.dump_request(EnqueueRolloutRequest(input={"x": {1, 2}}))


def test_other_readers_can_read_it():
    worker = Worker(worker_id="w", heartbeat_stats={"cpu": 1.5})
    assert json.loads(wire.dump_worker(worker)) == worker.model_dump()
    assert json.loads(wire.dump_attempt(attempt())) == attempt().model_dump()
    span = Span.create("n", rollout_id="r", attempt_id="a")
    assert json.loads(wire.dump_span(span)) == {**span.model_dump(), "context": None, "parent": None}


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"worker_id": 1}', b"\xff"])
def test_what_is_no_such_noun_is_refused(body: bytes):
    with pytest.raises(ValidationError):
        wire.parse(wire.WORKER, body)
