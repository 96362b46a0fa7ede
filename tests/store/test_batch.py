"""Frames of a batch: what goes in comes out, what is broken is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.batch import Frame, read_answers, read_calls, write_answers, write_calls

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
FRAMES = st.builds(
    Frame,
    method=st.sampled_from(["GET", "POST"]),
    path=WORDS,
    key=st.none() | WORDS.filter(lambda key: key != "-"),
    body=st.binary(),
)


@given(st.lists(FRAMES))
def test_calls_come_out_as_they_went_in(frames: list[Frame]):
    assert list(read_calls(write_calls(frames))) == frames


@given(st.lists(st.tuples(st.integers(100, 599), st.binary())))
def test_answers_come_out_as_they_went_in(answers: list[tuple[int, bytes]]):
    assert read_answers(write_answers(answers)) == answers


@pytest.mark.parametrize(
    "data", [b"nonsense", b"GET /a - 3\nab", b"GET /a - x\n", b"GET /a 3\nabc", b"GET /a - -1\nabc", b"\n"]
)
def test_broken_frames_are_refused(data: bytes):
    with pytest.raises(ValueError, match="malformed frame at byte 0"):
        list(read_calls(data))
