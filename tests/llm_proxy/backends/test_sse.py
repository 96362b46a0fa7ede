"""The parser of server-sent events against every way of cutting and spoiling a stream."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.llm_proxy.backends.sse import EventParser, UpstreamError
from agentlightning.types import RequestError

URL = "http://there/v1"
LAST = {"choices": [{"index": 0, "finish_reason": "stop"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text().filter(lambda key: key not in ("error", "type")), JSON, max_size=3)


def parse(pieces: list[bytes], **more: Any) -> list[dict[str, Any]]:
    parser = EventParser(URL, **more)
    found = [event for piece in pieces for event in parser.feed(piece)]
    return found if parser.done else [*found, *parser.end()]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[dict[str, Any]]]:
    """A valid stream and its events: any line end, comments, names, ids, several data lines, maybe no last newline."""
    events = draw(st.lists(OBJECTS, max_size=5))
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    out = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    for event in events:
        lines = [b":" + draw(st.sampled_from([b"", b" ping \xff", b"data: no"]))] if draw(st.booleans()) else []
        if draw(st.booleans()):
            lines += [b"event: chunk", b"id: 7", b"retry: 10", b"unknown"]
        text = orjson.dumps(event, option=orjson.OPT_INDENT_2 if draw(st.booleans()) else None)
        space = draw(st.sampled_from([b"", b" "]))
        lines += [b"data:" + (space or (b" " if line.startswith(b" ") else b"")) + line for line in text.split(b"\n")]
        out += end.join(lines) + end * draw(st.integers(2, 4))
    last = draw(st.sampled_from([b"data: [DONE]", b"data:[DONE]"]))
    return out + last + draw(st.sampled_from([b"", end, end * 2, end * 2 + b"data: not read"])), events


@given(stream=streams(), cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_any_cut_of_a_stream_gives_the_same_events(stream: tuple[bytes, list[Any]], cuts: list[int]) -> None:
    data, events = stream
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert parse([data[a:b] for a, b in itertools.pairwise(at)]) == events
    assert parse([data[i : i + 1] for i in range(len(data))]) == events


PARTS = [b"data:", b"data: {", b"}", b'"', b"\n", b"\r", b"\n\n", b"[DONE]", b"\xc3", b'{"a":1}', b'{"error":1}', b":"]


@given(pieces=st.lists(st.binary(max_size=20) | st.sampled_from(PARTS), max_size=40))
def test_any_bytes_give_events_or_a_request_error(pieces: list[bytes]) -> None:
    failed: RequestError | None = None
    found: list[Any] = []
    try:
        found = parse(pieces, max_bytes=30)
    except RequestError as error:
        failed = error
    assert failed is None or (failed.status == 502 and URL in failed.message)
    assert all(isinstance(event, dict) for event in found)


@given(event=OBJECTS, data=st.data())
def test_a_torn_event_is_never_taken_for_a_whole_one(event: dict[str, Any], data: st.DataObject) -> None:
    whole = b"data: " + orjson.dumps({"a": event})
    torn = whole[: data.draw(st.integers(len(b"data: {"), len(whole) - 1))]
    with pytest.raises(RequestError, match="early"):
        parse([b"data: " + orjson.dumps(LAST) + b"\n\n", torn])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'data: {"a": "\xc3"}\n\n', "invalid JSON in its stream"),
        (b"data: {a}\n\n", "invalid JSON in its stream"),
        (b"data: 3\n\n", "no JSON object in its stream"),
        (b"data: " + b"x" * 101, "line of more than 100 bytes"),
        (b"data: " + b"x" * 101 + b"\n", "line of more than 100 bytes"),
        (b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60 + b"\n", "event of more than 100 bytes"),
        (b"", "ended its stream early, before the answer was complete"),
        (b'data: {"choices": [{"finish_reason": null}]}\n\n', "before the answer was complete"),
        (b'data: {"cho', "ended its stream early, within an event"),
    ],
)
def test_what_is_wrong_is_told_with_the_endpoint(data: bytes, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        parse([data], max_bytes=100)
    assert (caught.value.status, URL in caught.value.message) == (502, True)


def test_a_line_at_the_bound_passes_however_it_comes() -> None:
    line = b'data: {"a":"' + b"x" * 86 + b'"}'
    assert len(line) == 100
    for pieces in ([line + b"\n\n"], [line[:50], line[50:], b"\n\n"], [line[:99], line[99:] + b"\n\n"]):
        (event,) = parse([*pieces, b"data: [DONE]\n\n"], max_bytes=100)
        assert event == {"a": "x" * 86}


@pytest.mark.parametrize(
    "last",
    [
        LAST,
        {"type": "message_stop"},
        {"type": "response.completed", "response": {}},
        {"type": "response.incomplete", "response": {}},
    ],
)
def test_a_stream_may_end_after_a_finished_answer(last: dict[str, Any]) -> None:
    assert parse([b"data: " + orjson.dumps(last)]) == [last]


@pytest.mark.parametrize(
    ("event", "status", "message"),
    [
        ({"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}, 500, "out of memory"),
        ({"error": {"message": "too long", "code": 400}}, 400, "too long"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529, "Overloaded"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow down"}, 429, "slow down"),
        ({"error": {"message": "what", "code": "weird"}}, 502, "what"),
        ({"error": {"message": "what", "code": True}}, 502, "what"),
        ({"error": {"message": "what", "code": 200}}, 502, "what"),
        ({"error": "broken"}, 502, "broken"),
    ],
)
def test_an_error_in_the_stream_is_raised_after_what_came_before(
    event: dict[str, Any], status: int, message: str
) -> None:
    parser = EventParser(URL)
    events = parser.feed(b'data: {"a": 1}\n\ndata: ' + orjson.dumps(event) + b"\n\n")
    assert next(events) == {"a": 1}
    with pytest.raises(UpstreamError, match=message) as caught:
        next(events)
    assert caught.value.status == status
    assert message in str(caught.value.to_body())
