"""Rewards as spans: what may be given, and how they are read back."""

import math
from typing import Any

import numpy as np
import pytest

from agentlightning.emitter import (
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from agentlightning.types import RewardError, SpanCoreFields


@pytest.mark.parametrize(
    ("given", "expected"), [(0.5, 0.5), (2, 2.0), (True, 1.0), (np.float32(0.25), 0.25), (np.bool_(True), 1.0)]
)
def test_a_number_becomes_the_primary_reward(given: Any, expected: float):
    span = emit_reward(given, propagate=False)
    value = get_reward_value(span)
    assert value == expected
    assert type(value) is float
    assert span.name == "agentlightning.reward"
    assert span.attributes == {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": expected}


def test_dimensions_come_primary_first():
    span = emit_reward({"style": 0.1, "right": 1, "speed": 0.3}, primary_key="right", propagate=False)
    assert [(d.name, d.value) for d in get_rewards_from_span(span)] == [("right", 1.0), ("style", 0.1), ("speed", 0.3)]
    assert get_reward_value(span) == 1.0


def test_attributes_ride_along_and_never_replace_the_reward():
    span = emit_reward(1.0, attributes={"judge": {"model": "j"}, "agentlightning.reward.0.value": 9.0}, propagate=False)
    assert span.attributes["judge.model"] == "j"
    assert get_reward_value(span) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_that_is_not_finite_is_refused(value: Any):
    with pytest.raises(ValueError, match=r"`reward` must be a finite number, not"):
        emit_reward(value, propagate=False)


@pytest.mark.parametrize("value", [1e300, -1e39, 3.5e38])
def test_a_number_that_float32_cannot_hold_is_refused(value: float):
    with pytest.raises(RewardError, match=r"`reward` must be a finite number of at most 3\.4e\+38 in size, not"):
        emit_reward(value, propagate=False)


def test_the_largest_number_of_float32_is_a_reward():
    largest = float(np.finfo(np.float32).max)
    assert get_reward_value(emit_reward(-largest, propagate=False)) == -largest


@pytest.mark.parametrize("value", ["1.0", None, [1.0], 1j])
def test_what_is_no_number_is_refused(value: Any):
    with pytest.raises(TypeError, match=r"`reward` must be a number, not"):
        emit_reward(value, propagate=False)


def test_a_bad_dimension_is_named():
    with pytest.raises(ValueError, match=r"`reward\['b'\]` must be a finite number, not nan"):
        emit_reward({"a": 1.0, "b": math.nan}, primary_key="a", propagate=False)


@pytest.mark.parametrize("key", [None, "c"])
def test_dimensions_need_a_known_primary_key(key: str | None):
    with pytest.raises(ValueError, match=r"must be one of the reward's dimensions \('a', 'b'\)"):
        emit_reward({"a": 1.0, "b": 2.0}, primary_key=key, propagate=False)


def test_a_primary_key_without_dimensions_is_refused():
    with pytest.raises(ValueError, match="`primary_key` 'a'"):
        emit_reward(1.0, primary_key="a", propagate=False)


def test_outside_of_an_attempt_the_error_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"`agentlightning.reward`: no tracer is active.*propagate=False"):
        emit_reward(1.0)


def test_the_final_reward_is_the_last_one():
    other = SpanCoreFields(name="tool", attributes={"x": 1})
    spans = [emit_reward(0.1, propagate=False), other, emit_reward(0.7, propagate=False), other]
    assert [get_reward_value(s) for s in find_reward_spans(spans)] == [0.1, 0.7]
    assert find_final_reward(spans) == 0.7
    assert find_final_reward([other]) is None
    assert not is_reward_span(other)
    assert get_rewards_from_span(other) == []


@pytest.mark.parametrize("value", ["1.0", math.nan, 1e300, [1.0]])
def test_foreign_spans_with_a_reward_that_is_no_number_do_not_count(value: Any):
    span = SpanCoreFields(name="x", attributes={"agentlightning.reward.0.value": value})
    assert get_reward_value(span) is None
    assert find_final_reward([emit_reward(0.5, propagate=False), span]) == 0.5
