"""JSON text of any value."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.codec import decode, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values where NaN equals NaN and 1 is neither True nor 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return left == right or (left != left and right != right)


@given(JSON)
def test_every_json_value_comes_back(value: Any):
    assert same(decode(encode("x", value)), value)


@pytest.mark.parametrize(
    ("given", "back"),
    [
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        ({"a": np.array([[1.5]])}, {"a": [[1.5]]}),
        ((1, (2, 3)), [1, [2, 3]]),
        ({"x": np.array([np.inf])}, {"x": [math.inf]}),
        ([None, np.float32(-np.inf)], [None, -math.inf]),
    ],
)
def test_numpy_and_tuples_become_plain(given: Any, back: Any):
    assert decode(encode("x", given)) == back


def test_what_json_cannot_hold_is_named_by_its_place():
    with pytest.raises(TypeError, match=r"`input\.rows\[1\]\.when` is a date, .* give a str"):
        encode("input", {"rows": [1, {"when": date(2026, 1, 1)}]})
    with pytest.raises(TypeError, match=r"`input\.a` has the key 1; JSON keys are strings"):
        encode("input", {"a": {1: 2}})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="`input` is nested too deeply, or contains itself"):
        encode("input", loop)
