"""What endpoints answer, spoilt: passed on, or told as the endpoint's fault; never a failure of ours.

What is on record is either a whole answer or an error without tokens.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.types import Span
from tests.llm_proxy.agents import PATHS, Name, body_of

from .answers import good_answer
from .mutations import ANY, spoilt
from .world import EXAMPLES, World, check_error

Json = dict[str, Any]
PAIRS: list[tuple[Name, str]] = [
    *((name, model) for name in ("chat", "completions", "responses", "messages") for model in ("vllm", "sglang")),
    *((name, "anthropic") for name in ("chat", "responses", "messages")),
    *(("embeddings", model) for model in ("vllm", "sglang")),
]
NAMES = "choices delta message content tool_calls function usage error type id index finish_reason logprobs token_ids"


@st.composite
def streams(draw: st.DrawFn, good: list[Json]) -> bytes:
    """The events of a stream, spoilt, and now and then its bytes."""
    events = draw(spoilt(good, NAMES.split()))
    events = events if isinstance(events, list) else [events]
    data = b"".join(b"data: " + dumped(event) + b"\n\n" for event in events)
    if draw(st.booleans()):
        data += b"data: [DONE]\n\n"
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 8)) :]
    return data


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def ask(world: World, name: Name, model: str, *, stream: bool) -> None:
    """Ask, and check what comes and what is on record."""
    body = body_of(name, model=model) | ({"stream": True} if stream else {})
    status, data = world.post("/v1" + PATHS[name], dumped(body))
    assert not world.internal, world.internal[0]
    failed = status != 200
    if failed:
        assert 400 <= status < 600, data
        check_error(name, data)
    elif stream and not data.startswith(b"{"):
        last = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: {")][-1]
        failed = b'"error":{' in last and bool(orjson.loads(last).get("error"))
        if failed:
            check_error(name, last)
    (span,) = asyncio.run(last_span(world))
    assert span.status.status_code == ("ERROR" if failed else "OK"), (span.status, data)
    if span.token_call is not None:
        assert not failed
        assert len(span.token_call.response_ids) > 0
        assert span.token_call.logprobs is None or len(span.token_call.logprobs) == len(span.token_call.response_ids)
        assert span.token_call.response_ids.dtype == np.int32


async def last_span(world: World) -> list[Span]:
    store = world.proxy.get_store()
    assert store is not None
    _, _, rollout_id, _, attempt_id = world.path.split("/")
    return list(await store.query_spans(rollout_id, attempt_id, limit=1, sort_order="desc"))


@pytest.mark.parametrize(("name", "model"), PAIRS)
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_answer_is_passed_on_or_told(world: World, name: Name, model: str, data: st.DataObject) -> None:
    good = good_answer(name, model, tools=data.draw(st.booleans()), stream=False)
    world.say(
        data.draw(spoilt(good, NAMES.split()).map(dumped) | ANY.map(dumped) | st.binary(max_size=60)), stream=False
    )
    ask(world, name, model, stream=False)


@pytest.mark.parametrize(("name", "model"), [pair for pair in PAIRS if pair[0] != "embeddings" and pair[1] != "sglang"])
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_stream_is_passed_on_or_told(world: World, name: Name, model: str, data: st.DataObject) -> None:
    good = good_answer(name, model, tools=data.draw(st.booleans()), stream=True)
    world.say(data.draw(streams(good)), stream=True)
    ask(world, name, model, stream=True)
