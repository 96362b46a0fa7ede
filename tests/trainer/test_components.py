"""What a component may be given as."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.adapter import LlmProxyTraceToTriplet, TraceAdapter, TracerTraceToTriplet
from agentlightning.trainer.components import build_component, instantiate_component, load_class

PATH = "agentlightning.adapter.TracerTraceToTriplet"
AS_ADAPTER: dict[str, Any] = {"expected_type": TraceAdapter, "spec_name": "adapter"}


@pytest.mark.parametrize(
    "spec",
    [
        TracerTraceToTriplet(),
        TracerTraceToTriplet,
        lambda: TracerTraceToTriplet(),
        PATH,
        {"type": PATH, "llm_call_match": "x"},
        {"name": PATH},
        "tracer",
        {"type": "tracer"},
        {"llm_call_match": "x"},
        None,
    ],
    ids=["object", "class", "function", "path", "dict", "name", "key", "dict key", "dict without type", "none"],
)
def test_every_way_to_say_it(spec: Any):
    found = build_component(
        spec,
        **AS_ADAPTER,
        default_factory=TracerTraceToTriplet,
        dict_requires_type=False,
        dict_default_cls=TracerTraceToTriplet,
        registry={"tracer": PATH, "proxy": LlmProxyTraceToTriplet},
    )
    assert type(found) is TracerTraceToTriplet


def test_defaults_go_where_they_are_taken():
    class Wants:
        def __init__(self, a: int, b: int = 0) -> None:
            self.given = (a, b)

    assert instantiate_component(Wants, {"a": 1}, {"b": lambda: 2, "c": 3}).given == (1, 2)
    assert instantiate_component(Wants, {"a": 1, "b": 5}, {"b": 2}).given == (1, 5)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("nonsense", "`adapter` is 'nonsense'.*proxy"),
        ("no.such.Module", "can't be imported"),
        ("agentlightning.adapter.Nope", "can't be imported"),
        ({"llm_call_match": "x"}, "without `type`"),
        (3, "`adapter` is a int; give a TraceAdapter"),
        (None, "`adapter` is None"),
    ],
)
def test_what_can_not_be_understood(spec: Any, text: str):
    with pytest.raises(ValueError, match=text):
        build_component(spec, **AS_ADAPTER, registry={"proxy": LlmProxyTraceToTriplet})


def test_another_type_is_refused():
    with pytest.raises(TypeError, match="`adapter` gave a dict; it must be a TraceAdapter"):
        build_component(dict, **AS_ADAPTER)
    assert build_component(None, **AS_ADAPTER, allow_none=True) is None
    assert load_class(PATH) is TracerTraceToTriplet
