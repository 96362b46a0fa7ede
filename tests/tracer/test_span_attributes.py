"""What spans can hold."""

import numpy as np
import pytest

from agentlightning.tracer import flatten_attributes


def test_values_a_span_can_hold_stay_as_they_are():
    values = {"s": "x", "b": True, "i": 3, "f": 0.5, "list": [1, 2], "empty": [], "tuple": ("a", "b")}
    assert flatten_attributes(values) == {**values, "tuple": ["a", "b"]}


def test_other_values_become_text():
    found = flatten_attributes({"mixed": [1, "a"], "array": np.arange(3), "big": {1, 2}, "none": None, "obj": 10**30})
    assert found["mixed"] == '[1,"a"]'
    assert found["array"] == "[0,1,2]"
    assert isinstance(found["big"], str)
    assert found["obj"] == 10**30
    assert "none" not in found


def test_a_prefix_goes_in_front():
    assert flatten_attributes({"a": {"b": 1}}, "p") == {"p.a.b": 1}


def test_keys_are_strings():
    with pytest.raises(TypeError, match="not int"):
        flatten_attributes({"a": {1: 2}})  # type: ignore[dict-item]
