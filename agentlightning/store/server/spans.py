"""Handlers of spans. Called by `api` through `routes`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter

from agentlightning.types import Span

from ..base import LightningStore
from ..ledger_queries import spans_query
from ..rows import SpanRow
from ..wire import SPAN, SPANS, Page, dump, dump_page, dump_span, dump_spans, parse
from . import bodies
from .call import NULL, Call, Route
from .span_rows import read_span_rows
from .spliced import of_rows, span_page, spans_by_rollout

_PAIRS = TypeAdapter(list[bodies.NextSequenceId])


async def add(store: LightningStore, call: Call) -> bytes:
    """One span, or a list of them; what was there already is left out of the answer."""
    if not _is_list(call.body):
        stored = await store.add_span(parse(SPAN, call.body))
        return NULL if stored is None else dump_span(stored)
    return dump_spans(await store.add_many_spans(parse(SPANS, call.body)))


async def add_many(store: LightningStore, call: Call) -> bytes:
    """A list of spans, answered by their numbers only."""
    if home := of_rows(store, "add_many_spans"):
        rows = read_span_rows(call.body)
        return dump({"sequence_ids": _numbers(rows, await home.add_span_rows(rows))})
    spans = parse(SPANS, call.body)
    return dump({"sequence_ids": _numbers(spans, await store.add_many_spans(spans))})


def _numbers(spans: Sequence[Span | SpanRow], stored: Sequence[Span | SpanRow]) -> list[int | None]:
    numbers = {(span.rollout_id, span.attempt_id, span.span_id): span.sequence_id for span in stored}
    return [numbers.pop((span.rollout_id, span.attempt_id, span.span_id), None) for span in spans]


async def next_sequence_id(store: LightningStore, call: Call) -> bytes:
    """For one (rollout, attempt), or for each of a list of them."""
    if not _is_list(call.body):
        one = call.read(bodies.NextSequenceId)
        return dump({"sequence_id": await store.get_next_span_sequence_id(one.rollout_id, one.attempt_id)})
    many = parse(_PAIRS, call.body)
    numbers = await store.get_many_span_sequence_ids([(pair.rollout_id, pair.attempt_id) for pair in many])
    return dump({"sequence_ids": list(numbers)})


async def _query(store: LightningStore, query: bodies.QuerySpans) -> bytes:
    if home := of_rows(store, "query_spans"):
        wanted = spans_query(**query.__dict__)
        return span_page(wanted, await home.span_rows(wanted))
    return dump_page(await store.query_spans(**query.__dict__), dump_span)


async def query_spans(store: LightningStore, call: Call) -> bytes:
    return await _query(store, call.read_query(bodies.QuerySpans))


async def search_spans(store: LightningStore, call: Call) -> bytes:
    return await _query(store, call.read(bodies.QuerySpans))


async def query_many(store: LightningStore, call: Call) -> bytes:
    attempts = call.read(bodies.QueryManySpans).attempts
    if home := of_rows(store, "query_many_spans"):
        return spans_by_rollout(await home.span_rows_of_attempts(attempts))
    found = await store.query_many_spans(attempts)
    entries = (dump(rollout_id) + b":" + dump_spans(spans) for rollout_id, spans in found.items())
    return b"{" + b",".join(entries) + b"}"


def _is_list(body: bytes) -> bool:
    return body.lstrip()[:1] == b"["


def routes(prefix: str) -> list[Route]:
    """The table of these handlers."""
    page, next_ids = Page[Span], bodies.NextSequenceId | list[bodies.NextSequenceId]
    return [
        Route("POST", f"{prefix}/spans", "add_span", add, Span | list[Span], answer=Span | list[Span] | None,
              status=201),
        Route("GET", f"{prefix}/spans", "query_spans", query_spans, query=bodies.QuerySpans, answer=page),
        Route("POST", f"{prefix}/spans/search", "search_spans", search_spans, bodies.QuerySpans, answer=page),
        Route("POST", f"{prefix}/spans/many", "add_many_spans", add_many, list[Span], answer=bodies.NumberedSpans,
              status=201),
        Route("POST", f"{prefix}/spans/many/search", "query_many_spans", query_many, bodies.QueryManySpans,
              answer=dict[str, list[Span]]),
        Route("POST", f"{prefix}/spans/next", "get_many_span_sequence_ids", next_sequence_id, next_ids,
              answer=bodies.NextSequenceIdAnswer | bodies.SequenceIdsAnswer),
    ]  # fmt: skip
