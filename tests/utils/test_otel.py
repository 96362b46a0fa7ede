"""Attributes: nested and flat, tags, links, what a span can hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.types import Span
from agentlightning.utils.otel import (
    check_attributes_sanity,
    extract_links_from_attributes,
    extract_tags_from_attributes,
    filter_and_unflatten_attributes,
    filter_attributes,
    flatten_attributes,
    format_exception_attributes,
    full_qualified_name,
    get_tracer,
    make_link_attributes,
    make_tag_attributes,
    query_linked_spans,
    sanitize_attribute_value,
    sanitize_attributes,
    sanitize_list_attribute_sanity,
    unflatten_attributes,
)

scalars = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
names = st.text("abc", min_size=1, max_size=3)
nested = st.dictionaries(
    names,
    st.recursive(
        scalars | st.lists(st.integers(), max_size=3),
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(names, inner, min_size=1, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(nested, st.booleans())
def test_flat_and_back(value: dict[str, Any], expand: bool):
    assert unflatten_attributes(flatten_attributes(value, expand_leaf_lists=expand)) == value


def test_keys_that_are_no_strings_are_named():
    with pytest.raises(ValueError, match=r"not int.*in `a`"):
        flatten_attributes({"a": {1: 2}})


def test_numbers_with_a_gap_are_no_list():
    assert unflatten_attributes({"a.0": "x", "a.2": "y"}) == {"a": {"0": "x", "2": "y"}}
    assert unflatten_attributes({"1": "b", "0": "a"}) == ["a", "b"]
    assert unflatten_attributes({"a": 1, "a.b": 2}) == {"a": {"b": 2}}
    assert unflatten_attributes({}) == {}


def test_a_prefix_ends_at_a_dot():
    flat = {"a": 1, "a.b": 2, "ab": 3}
    assert filter_attributes(flat, "a") == {"a": 1, "a.b": 2}
    assert filter_and_unflatten_attributes({"a.b.c": 1, "ab": 2}, "a") == {"b": {"c": 1}}
    with pytest.raises(ValueError, match="`a` has a value of its own"):
        filter_and_unflatten_attributes(flat, "a")


def test_tags():
    attributes = make_tag_attributes(["slow", "io"])
    assert attributes == {"agentlightning.tag.0": "slow", "agentlightning.tag.1": "io"}
    assert extract_tags_from_attributes({**attributes, "other": 1}) == ["slow", "io"]
    assert extract_tags_from_attributes({"other": 1}) == []
    for wrong in ("slow", [1]):
        with pytest.raises(ValueError, match="string"):
            make_tag_attributes(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="numbered"):
        extract_tags_from_attributes({"agentlightning.tag.1": "x"})


def test_links_find_their_spans():
    spans = [Span.from_attributes(attributes={"id": n, "kind": "call"}) for n in ("1", "2")]
    links = extract_links_from_attributes(make_link_attributes({"id": "2", "kind": "call"}))
    assert query_linked_spans(spans, links) == [spans[1]]
    by_id = extract_links_from_attributes(make_link_attributes({"span_id": spans[0].span_id}))
    assert query_linked_spans(spans, by_id) == [spans[0]]
    assert extract_links_from_attributes({}) == []
    with pytest.raises(ValueError, match="not int"):
        make_link_attributes({"id": 2})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="are no links"):
        extract_links_from_attributes({"agentlightning.link.0.key_match": "id"})


def test_links_find_spans_of_opentelemetry():
    from opentelemetry.sdk.trace import TracerProvider

    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("x", attributes={"id": "7"})
    context = span.get_span_context()
    for links in ({"id": "7"}, {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}):
        assert query_linked_spans([span], extract_links_from_attributes(make_link_attributes(links))) == [span]


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        (1, 1),
        (None, "null"),
        ({"a": [1]}, '{"a": [1]}'),
        ([1, 2.5], [1.0, 2.5]),
        ([True, 2], [1, 2]),
        ([1, "a"], '[1, "a"]'),
        ((1, 2), "[1, 2]"),
        ({1}, '"{1}"'),
    ],
)
def test_a_value_becomes_what_a_span_can_hold(value: Any, clean: Any):
    found = sanitize_attribute_value(value)
    assert found == clean
    assert type(found) is type(clean)
    check_attributes_sanity({"x": found})


def test_what_json_cannot_hold():
    with pytest.raises(ValueError, match=r"`x`.*object"):
        sanitize_attributes({"x": object()}, force=False)
    circle: list[Any] = []
    circle.append(circle)
    assert sanitize_attribute_value(circle) == "[[...]]"


def test_lists_of_one_kind():
    assert sanitize_list_attribute_sanity([]) == []
    with pytest.raises(ValueError, match="int, str"):
        sanitize_list_attribute_sanity([1, "a"])


@pytest.mark.parametrize("wrong", [{1: 2}, {"a": None}, {"a": [1, "x"]}, {"a": {"b": 1}}])
def test_what_a_span_cannot_hold_is_refused(wrong: Any):
    with pytest.raises(ValueError, match="attribute"):
        check_attributes_sanity(wrong)


def test_an_exception_is_described():
    found = format_exception_attributes(KeyError("x"))
    assert found["exception.type"] == "KeyError"
    assert found["exception.message"] == "'x'"
    assert "KeyError" in found["exception.stacktrace"]


def test_names():
    assert full_qualified_name(dict) == "dict"
    assert full_qualified_name(Span) == "agentlightning.types.span.Span"


async def test_a_tracer_of_the_attempt():
    from agentlightning import OtelTracer

    async with OtelTracer().trace_context() as trace:
        with get_tracer().start_as_current_span("recorded"):
            pass
        with get_tracer(use_active_span_processor=False).start_as_current_span("dropped"):
            pass
    assert [span.name for span in trace.spans] == ["recorded"]
