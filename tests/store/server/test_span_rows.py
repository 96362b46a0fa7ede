"""Spans as rows straight from JSON: the same rows as by way of the models, whatever is sent."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentlightning.store import wire
from agentlightning.store.rows import span_row
from agentlightning.store.server.span_rows import read_span_rows

from ..helpers import token_call

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
LISTS = st.lists(TEXT) | st.lists(st.booleans()) | st.lists(st.integers()) | st.lists(NUMBERS)
VALUES = TEXT | st.booleans() | NUMBERS | LISTS
ATTRIBUTES = st.dictionaries(TEXT, VALUES, max_size=4)
TIMES = st.none() | st.integers(0, 9) | st.floats(0, 1e10)
CODES = st.sampled_from(["OK", "UNSET", "ERROR"])
STATUS = st.fixed_dictionaries({"status_code": CODES}, optional={"description": st.none() | TEXT})
CALL = base64.b64encode(token_call().to_bytes()).decode()
EVENT = {"name": "e", "attributes": {"a": 1}, "timestamp": 1.5}
ITEMS = st.fixed_dictionaries(
    {
        "rollout_id": TEXT,
        "attempt_id": TEXT,
        "sequence_id": st.integers(0, 2**53) | st.sampled_from([3.0, "3"]),
        "span_id": TEXT,
        "trace_id": TEXT,
        "name": TEXT,
        "attributes": ATTRIBUTES,
    },
    optional={
        "parent_id": st.none() | TEXT,
        "start_time": TIMES,
        "end_time": TIMES,
        "status": STATUS,
        "events": st.sampled_from([[], [EVENT]]),
        "links": st.just([]),
        "resource": st.fixed_dictionaries({"attributes": ATTRIBUTES}, optional={"schema_url": TEXT}) | ATTRIBUTES,
        "token_call": st.sampled_from([None, CALL]),
        "context": st.none(),
        "something": TEXT,
    },
)
USUAL: dict[str, Any] = {
    "rollout_id": "ro-1",
    "attempt_id": "at-1",
    "sequence_id": 1,
    "span_id": "s",
    "trace_id": "t",
    "parent_id": None,
    "name": "n",
    "start_time": 1.0,
    "end_time": None,
    "status": {"status_code": "OK", "description": None},
    "attributes": {"a": "b"},
    "events": [],
    "links": [],
    "resource": {"attributes": {}, "schema_url": ""},
    "token_call": None,
}


def _by_models(body: bytes) -> list[Any]:
    return [span_row(span) for span in wire.parse(wire.SPANS, body)]


@given(st.lists(ITEMS, max_size=3))
def test_the_rows_are_those_of_the_models(items: list[dict[str, Any]]):
    body = json.dumps(items).encode()
    rows, wanted = read_span_rows(body), _by_models(body)
    assert [_read(row) for row in rows] == [_read(row) for row in wanted]


def _read(row: Any) -> tuple[Any, ...]:
    """With what is JSON as values: its spaces and escapes may differ."""
    fields = ("status", "attributes", "events", "links", "resource")
    texts = {field: json.loads(getattr(row, field)) for field in fields}
    return tuple((name, repr(texts.get(name, value))) for name, value in row._asdict().items())


@pytest.mark.parametrize("body", [b'[{"a": NaN}]', b"{}", b"3", b"[3]", b"nonsense", b"[null]"])
def test_what_is_no_list_of_spans_is_refused(body: bytes):
    with pytest.raises(ValidationError):
        read_span_rows(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rollout_id", 3),
        ("sequence_id", None),
        ("sequence_id", "x"),
        ("parent_id", 3),
        ("start_time", "noon"),
        ("status", {"status_code": "GOOD", "description": None}),
        ("status", {"status_code": ["OK"], "description": None}),
        ("status", {"status_code": "OK", "description": 3}),
        ("attributes", {"a": {"b": 1}}),
        ("attributes", {"a": None}),
        ("attributes", {"a": [[1]]}),
        ("attributes", [1]),
        ("events", {}),
        ("links", [3]),
        ("resource", {"attributes": {"a": None}, "schema_url": ""}),
        ("resource", {"attributes": {}, "schema_url": 3}),
        ("token_call", 3),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any):
    with pytest.raises(ValidationError) as caught:
        read_span_rows(json.dumps([USUAL, {**USUAL, field: value}]).encode())
    assert caught.value.errors()[0]["loc"][:2] == (1, field)


def test_a_sequence_id_out_of_range_is_refused():
    for number in (-1, 2**53 + 1):
        with pytest.raises(ValueError, match="`sequence_id`"):
            read_span_rows(json.dumps([{**USUAL, "sequence_id": number}]).encode())


def test_what_orjson_reads_otherwise_goes_by_the_models():
    text = '{"long": 123456789012345678901234567890, "nan": NaN, "half": "\\ud800"}'
    body = json.dumps([USUAL]).replace('{"a": "b"}', text).encode()
    assert repr(json.loads(read_span_rows(body)[0].attributes)) == repr(json.loads(text))
