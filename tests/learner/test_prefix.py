"""Rows merged on common beginnings: each finds all of its tokens, nothing shared stands twice."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.learner.prefix import in_order, merge

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)
"""Three tokens only, so that rows begin alike, are equal, and begin one another."""


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


def distinct(rows: list[list[int]]) -> int:
    """Tokens of the trie of `rows`."""
    return len({tuple(row[: n + 1]) for row in rows for n in range(len(row))})


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, least=st.sampled_from([0.0, 0.1, 0.5, 2.0, math.inf]))
def test_a_row_is_a_path_of_whole_segments_but_for_the_last(rows, least):
    forest = merge(arrays(rows), least)
    assert forest.parents[0] == -1
    assert all(parent < index for index, parent in enumerate(forest.parents))
    assert forest.cu_seqlens[0] == 0
    assert forest.cu_seqlens[-1] == len(forest.token_ids) == len(forest.positions)
    assert all(b > a for a, b in pairwise(forest.cu_seqlens))
    for row, places in zip(rows, forest.places, strict=True):
        assert forest.token_ids[places].tolist() == row
        assert forest.positions[places].tolist() == list(range(len(row)))
        segment = int(np.searchsorted(forest.cu_seqlens, places[-1], side="right")) - 1
        backwards = list(range(places[-1], forest.cu_seqlens[segment] - 1, -1))
        while (segment := forest.parents[segment]) >= 0:
            backwards += range(forest.cu_seqlens[segment + 1] - 1, forest.cu_seqlens[segment] - 1, -1)
        assert places.tolist() == backwards[::-1]


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_sharing_all_leaves_each_distinct_token_once(rows):
    assert len(merge(arrays(rows), 0.0).token_ids) == distinct(rows)
    order, shared = in_order(arrays(rows))
    assert sorted(order) == list(range(len(rows)))
    assert sum(map(len, rows)) - sum(shared) == distinct(rows)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_sharing_nothing_leaves_the_rows_that_begin_no_other(rows):
    forest = merge(arrays(rows), math.inf)
    kept = {tuple(row) for row in rows if not any(len(o) > len(row) and o[: len(row)] == row for o in rows)}
    assert len(forest.token_ids) == sum(map(len, kept))
    assert set(forest.parents) == {-1}


def test_samples_of_a_prompt_and_their_branches():
    rows = arrays([[7, 7, 7, 1, 1, 5], [7, 7, 7, 2], [9, 9], [7, 7, 7, 1, 1, 6, 6], [7, 7, 7, 2]])
    forest = merge(rows, 0.0)
    assert forest.cu_seqlens == [0, 3, 5, 6, 8, 9, 11]
    assert forest.token_ids.tolist() == [7, 7, 7, 1, 1, 5, 6, 6, 2, 9, 9]
    assert forest.parents == [-1, 0, 1, 1, 0, -1]
    assert forest.places[3].tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert forest.places[1].tolist() == forest.places[4].tolist() == [0, 1, 2, 8]


def test_a_shared_beginning_that_saves_too_little_is_computed_again():
    """Two tokens of two rows of 52: sharing saves 2 of the 100 that come after."""
    rows = arrays([[3, 3, 0] + [1] * 49, [3, 3, 2] + [1] * 49])
    assert len(merge(rows, 0.019).token_ids) == 102
    assert len(merge(rows, 0.021).token_ids) == 104


def test_turns_that_continue_each_other_cost_no_more_than_the_last():
    conversation = np.arange(100, dtype=np.int32)
    forest = merge([conversation[:end] for end in range(10, 101, 10)])
    assert forest.token_ids.tolist() == conversation.tolist()
    assert forest.cu_seqlens == [0, 100]


def test_many_rows_that_branch_off_one_after_another_are_no_recursion():
    base = np.zeros(3000, np.int32)
    rows = [np.append(base[:n], np.int32(1)) for n in range(1, 3000)]
    assert len(merge(rows, 0.0).token_ids) == 2999 + 2999
