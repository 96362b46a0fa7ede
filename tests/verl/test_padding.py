"""The padding helpers of seed document 001: shapes, masks, and which end is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.verl import get_left_padded_ids_and_attention_mask as left
from agentlightning.verl import get_right_padded_ids_and_attention_mask as right

IDS = st.lists(st.integers(1, 99), max_size=12)


def test_left_pads_before_and_keeps_the_last_ids():
    assert left([5, 6, 7], 5, 0) == ([0, 0, 5, 6, 7], [0, 0, 1, 1, 1])
    assert left([5, 6, 7], 2, 0) == ([6, 7], [1, 1])


def test_right_pads_after_and_keeps_the_first_ids():
    assert right([5, 6, 7], 5, 0) == ([5, 6, 7, 0, 0], [1, 1, 1, 0, 0])
    assert right([5, 6, 7], 2, 0) == ([5, 6], [1, 1])


@pytest.mark.parametrize("pad", [left, right])
def test_a_pad_id_among_the_ids_is_not_masked(pad):
    assert pad([0, 0], 2, 0) == ([0, 0], [1, 1])


@pytest.mark.parametrize("pad", [left, right])
def test_length_zero_and_no_ids_are_lengths_too(pad):
    assert pad([1, 2], 0, 9) == ([], [])
    assert pad([], 2, 9) == ([9, 9], [0, 0])


@pytest.mark.parametrize("pad", [left, right])
def test_a_negative_length_is_refused(pad):
    with pytest.raises(ValueError, match="`max_length` is -1"):
        pad([1], -1, 0)


@given(ids=IDS, length=st.integers(0, 15))
def test_both_keep_what_fits_and_leave_the_ids_alone(ids, length):
    before = list(ids)
    for pad, kept in ((left, ids[len(ids) - min(len(ids), length) :]), (right, ids[:length])):
        padded, mask = pad(ids, length, 0)
        assert len(padded) == len(mask) == length
        assert [token for token, real in zip(padded, mask, strict=True) if real] == kept
        assert {token for token, real in zip(padded, mask, strict=True) if not real} <= {0}
    assert ids == before
