"""Requests of every interface to every backend, spoilt: an answer or a refusal, never a failure of ours or a hang."""

from __future__ import annotations

import json
import socket
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.llm_proxy.agents import NAMES, PATHS, Name, body_of

from .conversations import conversation
from .mutations import ANY, spoilt
from .world import EXAMPLES, KINDS, World, check_error

Json = dict[str, Any]
FIELDS: dict[Name, str] = {
    "chat": """stream stream_options temperature top_p top_k seed stop n logprobs top_logprobs tools tool_choice
        parallel_tool_calls response_format max_tokens max_completion_tokens presence_penalty logit_bias user metadata
        reasoning_effort functions return_token_ids return_weight_versions stop_token_ids echo""",
    "completions": "stream temperature top_p seed stop n logprobs echo suffix best_of max_tokens return_token_ids",
    "responses": """stream instructions tools tool_choice text reasoning include top_logprobs truncation background
        store previous_response_id conversation prompt metadata max_output_tokens parallel_tool_calls n temperature""",
    "messages": """stream system tools tool_choice stop_sequences metadata thinking output_config container mcp_servers
        temperature top_p top_k max_tokens thread n seed""",
    "embeddings": "stream dimensions encoding_format user",
}


@st.composite
def requests(draw: st.DrawFn, name: Name, model: str) -> Any:
    good = draw(st.sampled_from([body_of(name, model=model), conversation(name)]))
    body = draw(
        spoilt(st.just({**good, "model": model}), FIELDS[name].split()) | st.dictionaries(st.text(), ANY, max_size=4)
    )
    if isinstance(body, dict):
        body = {**body, "model": model} if draw(st.integers(0, 9)) else body
        body = {**body, "stream": True} if draw(st.booleans()) else body
    return body


def allowed(status: int, data: bytes, name: Name, world: World) -> None:
    assert not world.internal, world.internal[0]
    assert status == 200 or 400 <= status < 500, data
    if status != 200:
        check_error(name, data)
    elif not data.startswith(b"{"):
        events = [orjson.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]
        assert not any(event.get("error") for event in events), events[-1]


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_request_is_answered_or_refused(world: World, name: Name, model: str, data: st.DataObject) -> None:
    world.good()
    body = data.draw(requests(name, model))
    allowed(*world.post("/v1" + PATHS[name], json.dumps(body).encode()), name, world)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
@given(
    data=st.binary(max_size=100) | st.integers(100, 3000).map(lambda n: b"[" * n) | ANY.map(json.dumps).map(str.encode)
)
def test_any_bytes_are_refused(world: World, name: Name, data: bytes) -> None:
    status, answer = world.post("/v1" + PATHS[name], data)
    assert not world.internal, world.internal[0]
    assert 400 <= status < 500
    check_error(name, answer)


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [200, 240, 300, 1000])
def test_deep_nesting(world: World, name: Name, model: str, depth: int) -> None:
    world.good()
    deep = "[" * depth + '"x"' + "]" * depth
    good = {**conversation(name), "model": model}
    field = next(each for each in ("messages", "prompt", "input") if each in good)
    for body in (
        {**good, field: "DEEP"},
        {**good, field: [good[field], "DEEP"]},
        {**good, "tools": "DEEP", "x": "DEEP"},
    ):
        data = json.dumps(body).replace('"DEEP"', deep).encode()
        allowed(*world.post("/v1" + PATHS[name], data), name, world)


PATH_PIECES = ["/rollout/", "/attempt/", "ro-1", "at-1", "/v1", "/chat/completions", "/messages", "/models", "/health",
    "/complete", "..", "//", "%2F", "%00", "%0d%0a", "?a=b", "#", "\xff", "ü", ";", "/" * 50]  # fmt: skip


@settings(deadline=None, max_examples=3 * EXAMPLES, suppress_health_check=[*HealthCheck])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "HEAD"]),
    path=st.lists(st.sampled_from(PATH_PIECES) | st.text(st.characters(max_codepoint=255), max_size=5), max_size=8),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["authorization", "x-api-key", "content-type", "accept-encoding", "host", "x-rollout-id"]),
            st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=20),
        ),
        max_size=4,
    ),
)
def test_any_path_and_headers(world: World, method: str, path: list[str], headers: list[tuple[str, str]]) -> None:
    """By hand: clients tidy up what they send."""
    world.internal.clear()
    target = "/" + "".join(each for each in path if not set(each) & set(" \r\n\t\x00\x0b\x0c\x1c\x1d\x1e\x85\xa0"))
    lines = [f"{method} {target} HTTP/1.1", "connection: close", "content-length: 2"]
    lines += [f"{name}: {value}" for name, value in headers]
    with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=60) as sock:
        sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n{}")
        answer = b""
        while more := sock.recv(65536):
            answer += more
    assert not world.internal, world.internal[0]
    status = int(answer.split(b" ", 2)[1])
    assert status in (200, 400, 404, 405, 409, 503)
