"""What spans can hold."""

import numpy as np
import pytest

from agentlightning.tracer import flatten_attributes


def test_values_a_span_can_hold_stay_as_they_are():
    values = {"s": "x", "b": True, "i": 3, "f": 0.5, "list": [1, 2], "empty": [], "tuple": ("a", "b")}
    assert flatten_attributes(values) == {**values, "tuple": ["a", "b"]}


def test_other_values_become_text():
    found = flatten_attributes({"array": np.arange(3), "big": {1, 2}, "none": None, "obj": 10**30})
    assert found["array"] == "[0,1,2]"
    assert isinstance(found["big"], str)
    assert found["obj"] == 10**30
    assert "none" not in found


def test_a_list_that_a_span_cannot_hold_gets_a_key_per_item():
    assert flatten_attributes({"a": [1, "x", {"b": True}]}) == {"a.0": 1, "a.1": "x", "a.2.b": True}


def test_a_prefix_goes_in_front():
    assert flatten_attributes({"a": {"b": 1}}, "p") == {"p.a.b": 1}


def test_keys_are_strings():
    with pytest.raises(TypeError, match="not int"):
        flatten_attributes({"a": {1: 2}})  # type: ignore[dict-item]
