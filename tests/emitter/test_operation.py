"""`operation`: functions and blocks as spans; `@reward`."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.emitter import emit_message, get_reward_value, operation, reward
from agentlightning.tracer import OtelTracer, Tracer
from agentlightning.utils.otel import filter_and_unflatten_attributes

INPUT, OUTPUT = "agentlightning.operation.input", "agentlightning.operation.output"


@pytest.fixture(params=[Tracer, OtelTracer], ids=lambda kind: kind.__name__)
def tracer(request: pytest.FixtureRequest) -> Tracer:
    return request.param()


@operation
def add(a: int, b: int = 2, *more: int, **options: Any) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


class Tool:
    @operation(name="look up", team="search")
    async def get(self, url: str) -> str:
        emit_message("inside")
        return url


async def test_a_function(tracer: Tracer):
    async with tracer.trace_context() as trace:
        assert add(1, 3, 4, exact=True) == {"sum": 4}
        assert await Tool().get("http://x") == "http://x"
    first, inside, second = trace.spans
    assert filter_and_unflatten_attributes(first.attributes, INPUT) == {
        "a": 1,
        "b": 3,
        "more": [4],
        "options": {"exact": True},
    }
    assert first.attributes[f"{OUTPUT}.sum"] == 4
    assert first.attributes["agentlightning.operation.name"] == "add"
    assert second.attributes["agentlightning.operation.name"] == "look up"
    assert second.attributes["team"] == "search"
    assert second.attributes[OUTPUT] == "http://x"
    assert filter_and_unflatten_attributes(second.attributes, INPUT) == {"url": "http://x"}
    assert inside.parent_id == (second.span_id if isinstance(tracer, OtelTracer) else None)
    assert first.end_time >= first.start_time  # type: ignore[operator]
    assert (add.__name__, add.__doc__) == ("add", "Adds.")


async def test_an_exception_is_recorded_and_goes_on(tracer: Tracer):
    async with tracer.trace_context() as trace:
        with pytest.raises(ZeroDivisionError), operation(name="divide"):
            1 / 0  # noqa: B018
        with pytest.raises(TypeError, match="missing"):
            add()  # type: ignore[call-arg]
    failed = trace.spans[0]
    assert failed.status.status_code == "ERROR"
    told = {**failed.attributes, **(failed.events[0].attributes if failed.events else {})}
    assert told["exception.type"] == "ZeroDivisionError"
    assert trace.spans[1].status.status_code == "ERROR"


def test_a_block_without_an_attempt():
    with operation(propagate=False, conversation="c-1") as op:
        with pytest.raises(RuntimeError, match="has not ended"):
            op.span()
        op.set_input("first", limit=3)
        op.set_output([1, {"x": None}])
    assert op.span().attributes == {
        "conversation": "c-1",
        f"{INPUT}.args.0": "first",
        f"{INPUT}.limit": 3,
        f"{OUTPUT}.0": 1,
    }
    assert op.span().status.status_code == "OK"
    with pytest.raises(RuntimeError, match="entered once"), op:
        pass


def test_what_has_not_begun():
    with pytest.raises(RuntimeError, match="has not begun"):
        operation().set_input(1)
    with pytest.raises(RuntimeError, match="no tracer is active"):
        add(1)
    with pytest.raises(RuntimeError, match="no tracer is active"), operation():
        pass


async def test_the_reward_decorator_of_old(tracer: Tracer):
    with pytest.warns(DeprecationWarning, match="emit_reward"):

        @reward
        def score(answer: str) -> float:
            return float(len(answer))

    with pytest.warns(DeprecationWarning, match="emit_reward"):

        @reward
        async def judge() -> float:
            return 0.5

    async with tracer.trace_context() as trace:
        assert score("abc") == 3.0
        assert await judge() == 0.5
    assert [get_reward_value(span) for span in trace.spans] == [3.0, 0.5]
