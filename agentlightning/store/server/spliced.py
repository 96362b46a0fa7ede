"""Rows of our own homes as JSON, without making models of them: what users gave is JSON text in a row already.

Called by the handlers whose answers are long. Looks like what `wire` makes of models; ten times as fast.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache

import orjson

from ..base import LightningStore
from ..home import LedgerStore
from ..operations import Pair
from ..query import Page, Query
from ..rows import AttemptRow, RolloutRow, SpanRow, decode_config


def of_rows(store: LightningStore, method: str) -> LedgerStore | None:
    """The store, if it is one of ours and does `method` our way: a user's subclass may do it in another."""
    if isinstance(store, LedgerStore) and getattr(type(store), method) is getattr(LedgerStore, method):
        return store
    return None


def rollout_page(query: Query, pairs: Sequence[Pair], total: int) -> bytes:
    """What `query_rollouts` answers."""
    items = [_rollout(*pair) for pair in pairs]
    return orjson.dumps({"items": items, "limit": query.limit, "offset": query.offset, "total": total})


def span_page(query: Query, page: Page[SpanRow]) -> bytes:
    """What `query_spans` answers."""
    items = [_span(row) for row in page.rows]
    return orjson.dumps({"items": items, "limit": query.limit, "offset": query.offset, "total": page.total})


def spans_by_rollout(found: Mapping[str, Sequence[SpanRow]]) -> bytes:
    """What `query_many_spans` answers."""
    return orjson.dumps({rollout_id: [_span(row) for row in rows] for rollout_id, rows in found.items()})


def _rollout(row: RolloutRow, attempt: AttemptRow | None) -> dict[str, object]:
    # Unpacked, which is faster than names; `rows` holds the order.
    rollout_id, given, start_time, end_time, mode, resources_id, status, config, metadata, *_ = row
    fields: dict[str, object] = {
        "rollout_id": rollout_id,
        "input": orjson.Fragment(given),
        "start_time": start_time,
        "end_time": end_time,
        "mode": mode,
        "resources_id": resources_id,
        "status": status,
        "config": _config(config),
        "metadata": None if metadata is None else orjson.Fragment(metadata),
    }
    if attempt is not None:
        fields["attempt"] = _attempt(attempt)
    return fields


def _attempt(row: AttemptRow) -> dict[str, object]:
    rollout_id, attempt_id, sequence_id, start_time, end_time, status, worker_id, heard, metadata = row
    return {
        "rollout_id": rollout_id,
        "attempt_id": attempt_id,
        "sequence_id": sequence_id,
        "start_time": start_time,
        "end_time": end_time,
        "status": status,
        "worker_id": worker_id,
        "last_heartbeat_time": heard,
        "metadata": None if metadata is None else orjson.Fragment(metadata),
    }


def _span(row: SpanRow) -> dict[str, object]:
    call = row.token_call
    return {
        "name": row.name,
        "attributes": orjson.Fragment(row.attributes),
        "start_time": row.start_time,
        "end_time": row.end_time,
        "status": orjson.Fragment(row.status),
        "rollout_id": row.rollout_id,
        "attempt_id": row.attempt_id,
        "sequence_id": row.sequence_id,
        "trace_id": row.trace_id,
        "span_id": row.span_id,
        "parent_id": row.parent_id,
        "events": orjson.Fragment(row.events),
        "links": orjson.Fragment(row.links),
        "resource": orjson.Fragment(row.resource),
        "token_call": None if call is None else base64.b64encode(call).decode(),
        "context": None,
        "parent": None,
    }


@lru_cache(maxsize=1024)
def _config(text: str) -> orjson.Fragment:
    # A row has only what differs from the defaults. Few configs are shared by many rollouts.
    return orjson.Fragment(decode_config(text).model_dump_json())
