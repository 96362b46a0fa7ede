"""Spans on every home: what comes back, numbering, duplicates, bulk reading."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agentlightning.store import LightningStore
from agentlightning.types import Event, NotFoundError, OtelResource, Span, TraceStatus

from .helpers import enqueue, span_of, status_of, taken, token_call


async def test_span_comes_back_whole(store: LightningStore):
    rollout = await store.start_rollout("task")
    span = span_of(
        rollout,
        "llm",
        attributes={"s": "é\n", "i": 2**53 + 1, "f": 0.1, "b": True, "l": ["a", "b"], "half": "\ud83d"},
        parent_id="p",
        status=TraceStatus(status_code="ERROR", description="broke"),
    )
    span.events = [Event(name="exception", attributes={"type": "KeyError"}, timestamp=3.25)]
    span.resource = OtelResource(attributes={"service.name": "agent"}, schema_url="")
    stored = await store.add_span(span)
    (found,) = await store.query_spans(rollout.rollout_id)
    assert stored == found == span.model_copy(update={"sequence_id": 1})


async def test_token_call_comes_back_bit_for_bit(store: LightningStore):
    rollout = await store.start_rollout("task")
    span = span_of(rollout)
    span.token_call = call = token_call()
    await store.add_span(span)
    (found,) = await store.query_spans(rollout.rollout_id)
    assert found.token_call is not None
    assert found.token_call.to_bytes() == call.to_bytes()
    assert found.token_call.prompt_ids.dtype == np.int32


async def test_reward_that_is_no_number_survives(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.add_span(span_of(rollout, attributes={"reward": math.nan, "bound": math.inf}))
    (found,) = await store.query_spans(rollout.rollout_id)
    assert math.isnan(float(found.attributes["reward"]))  # type: ignore[arg-type]
    assert found.attributes["bound"] == math.inf


async def test_spans_are_numbered_in_order_of_arrival_within_the_rollout(store: LightningStore):
    rollout = await store.start_rollout("task")
    first = await store.add_many_spans([span_of(rollout) for _ in range(2)])
    second = await store.start_attempt(rollout.rollout_id)
    later = await store.add_span(span_of(second))
    assert [span.sequence_id for span in first] == [1, 2]
    assert later is not None
    assert later.sequence_id == 3


async def test_numbers_given_and_reserved_move_the_counter(store: LightningStore):
    rollout = await store.start_rollout("task")
    ids = (rollout.rollout_id, rollout.attempt.attempt_id)
    assert await store.get_next_span_sequence_id(*ids) == 1
    assert await store.get_many_span_sequence_ids([ids, ids]) == [2, 3]
    await store.add_many_spans([span_of(rollout, sequence_id=2), span_of(rollout, sequence_id=10)])
    stored = await store.add_many_spans([span_of(rollout), span_of(rollout, sequence_id=5), span_of(rollout)])
    assert [span.sequence_id for span in stored] == [11, 5, 12]
    assert await store.get_next_span_sequence_id(*ids) == 13
    assert [span.sequence_id for span in await store.query_spans(ids[0])] == [2, 5, 10, 11, 12]


async def test_duplicates_are_stored_once_and_take_no_number(store: LightningStore):
    rollout = await store.start_rollout("task")
    span = span_of(rollout, "first")
    assert await store.add_span(span) is not None
    assert await store.add_span(span.model_copy(update={"name": "again"})) is None
    new = span_of(rollout)
    stored = await store.add_many_spans([span, new, new])
    assert [(found.span_id, found.sequence_id) for found in stored] == [(new.span_id, 2)]
    assert [found.name for found in await store.query_spans(rollout.rollout_id)] == ["first", "work"]


async def test_same_span_id_in_another_attempt_is_another_span(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.add_span(span_of(rollout, span_id="s"))
    other = await store.start_attempt(rollout.rollout_id)
    await store.add_span(span_of(other, span_id="s"))
    found = await store.query_spans(rollout.rollout_id)
    assert [span.attempt_id for span in found] == [rollout.attempt.attempt_id, other.attempt.attempt_id]


async def test_one_unknown_attempt_refuses_the_whole_call(store: LightningStore):
    rollout = await store.start_rollout("task")
    for ids in (("ro-x", "at-x"), (rollout.rollout_id, "at-x")):
        stray = Span.create("stray", rollout_id=ids[0], attempt_id=ids[1])
        with pytest.raises(NotFoundError, match="-x' is"):
            await store.add_many_spans([span_of(rollout), stray])
        with pytest.raises(NotFoundError, match="-x' is"):
            await store.get_next_span_sequence_id(*ids)
    assert (await store.query_spans(rollout.rollout_id)).total == 0
    assert await status_of(store, rollout.rollout_id) == "preparing"


async def test_negative_sequence_id_is_refused(store: LightningStore):
    rollout = await store.start_rollout("task")
    with pytest.raises(ValueError, match="`sequence_id` of a span is -1"):
        await store.add_span(span_of(rollout, sequence_id=-1))


async def test_span_is_a_heartbeat_late_ones_too(store: LightningStore):
    rollout = await store.start_rollout("task")
    assert rollout.attempt.last_heartbeat_time is None
    await store.update_attempt(rollout.rollout_id, "latest", status="failed", last_heartbeat_time=1.0)
    await store.add_span(span_of(rollout))
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.last_heartbeat_time is not None
    assert attempt.last_heartbeat_time >= rollout.attempt.start_time
    assert attempt.status == "failed"


async def test_spans_of_many_attempts_in_one_call(store: LightningStore):
    await enqueue(store, 3)
    rollouts = [await taken(store) for _ in range(3)]
    for rollout in rollouts[:2]:
        await store.add_many_spans([span_of(rollout, sequence_id=2), span_of(rollout, sequence_id=1)])
    second = await store.start_attempt(rollouts[0].rollout_id)
    await store.add_span(span_of(second))
    pairs = [(rollout.rollout_id, rollout.attempt.attempt_id) for rollout in rollouts]
    found = await store.query_many_spans(pairs)
    assert list(found) == [rollout.rollout_id for rollout in rollouts]
    assert [[span.sequence_id for span in spans] for spans in found.values()] == [[1, 2], [1, 2], []]
    both = await store.query_many_spans([(second.rollout_id, second.attempt.attempt_id), pairs[0]])
    assert [span.sequence_id for span in both[second.rollout_id]] == [1, 2, 3]
    with pytest.raises(NotFoundError, match="'ro-x' is not in the store"):
        await store.query_many_spans([*pairs, ("ro-x", "at-x")])


async def test_query_spans_of_one_attempt_or_the_latest(store: LightningStore):
    first = await store.start_rollout("task")
    await store.add_span(span_of(first, "old"))
    second = await store.start_attempt(first.rollout_id)
    await store.add_span(span_of(second, "new"))

    async def names(attempt_id: Any) -> list[str]:
        return [span.name for span in await store.query_spans(first.rollout_id, attempt_id)]

    assert await names(None) == ["old", "new"]
    assert await names(first.attempt.attempt_id) == ["old"]
    assert await names("latest") == ["new"]
    assert await names("at-x") == []
    queued = await store.enqueue_rollout("task")
    assert (await store.query_spans(queued.rollout_id, "latest")).total == 0
    assert (await store.query_spans("ro-x", "latest")).total == 0


async def test_span_filters(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.add_many_spans(
        [
            span_of(rollout, "chat.completion", trace_id="t1", span_id="a1"),
            span_of(rollout, "Chat", trace_id="t1", span_id="a2", parent_id="a1"),
            span_of(rollout, "reward", trace_id="t2", span_id="b1", parent_id="a2"),
        ]
    )

    async def ids(**filters: Any) -> list[str]:
        return [span.span_id for span in await store.query_spans(rollout.rollout_id, **filters)]

    assert await ids(name="reward") == ["b1"]
    assert await ids(name_contains="hat") == ["a1", "a2"]
    assert await ids(name_contains="chat") == ["a1"], "case counts"
    assert await ids(name_contains="%") == [], "no wildcards"
    assert await ids(trace_id="t1", parent_id="a1") == ["a2"]
    assert await ids(trace_id="t2", parent_id="a1", filter_logic="or") == ["a2", "b1"]
    assert await ids(parent_id_contains="a") == ["a2", "b1"]
    assert await ids(trace_id_contains="2", span_id_contains="a") == []
    assert await ids(span_id="a2") == ["a2"]
    assert await ids(sort_by="name", sort_order="desc") == ["b1", "a1", "a2"]
    assert await ids(sort_by="parent_id") == ["a1", "a2", "b1"], "no value sorts first"


async def test_number_that_would_leave_none_for_later_spans_is_refused(store: LightningStore):
    rollout = await store.start_rollout("task")
    with pytest.raises(ValueError, match="`sequence_id`"):
        await store.add_span(span_of(rollout, sequence_id=2**63 - 1))
    assert await store.add_span(span_of(rollout)) is not None
