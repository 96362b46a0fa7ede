"""Exceptions, annotations, messages and objects as spans."""

from typing import Any

import pytest

from agentlightning.emitter import (
    emit_annotation,
    emit_exception,
    emit_message,
    emit_object,
    get_message_value,
    get_object_value,
)


def test_an_exception_keeps_type_message_and_traceback():
    try:
        {}["missing"]
    except KeyError as error:
        span = emit_exception(error, attributes={"where": "tool"}, propagate=False)
    assert span.name == "agentlightning.exception"
    assert span.attributes["exception.type"] == "KeyError"
    assert span.attributes["exception.message"] == "'missing'"
    assert "test_emit_others.py" in str(span.attributes["exception.stacktrace"])
    assert span.attributes["where"] == "tool"
    assert span.status.status_code == "ERROR"


def test_only_exceptions_are_exceptions():
    with pytest.raises(TypeError, match="`exception` must be an exception, not str"):
        emit_exception("boom", propagate=False)  # type: ignore[arg-type]


def test_an_annotation_is_flattened():
    span = emit_annotation({"a": {"b": 1, "c": None}, "list": [1, 2], "rows": [{"x": 1}, {"x": 2}]}, propagate=False)
    assert span.attributes == {"a.b": 1, "list": [1, 2], "rows.0.x": 1, "rows.1.x": 2}


@pytest.mark.parametrize("bad", ["text", {1: "x"}])
def test_an_annotation_needs_names(bad: Any):
    with pytest.raises(TypeError, match="must be"):
        emit_annotation(bad, propagate=False)


def test_a_message_comes_back():
    span = emit_message("hello", propagate=False)
    assert get_message_value(span) == "hello"
    assert get_message_value(emit_annotation({}, propagate=False)) is None
    with pytest.raises(TypeError, match="emit_object"):
        emit_message({"a": 1}, propagate=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["text", 3, 0.5, True, {"a": [1, {"b": None}]}, [1, "x"], []])
def test_an_object_comes_back(value: Any):
    assert get_object_value(emit_object(value, propagate=False)) == value


def test_an_object_is_json():
    with pytest.raises(TypeError):
        emit_object({"f": object()}, propagate=False)
    assert get_object_value(emit_message("x", propagate=False)) is None
