"""HTTP to an endpoint that works, refuses, hangs, breaks off, floods or is not there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from agentlightning.llm_proxy.backends import upstream as module
from agentlightning.llm_proxy.backends.upstream import Upstream, UpstreamError
from agentlightning.types import RequestError

from .endpoint import DONE, Endpoint, serving, sse, streaming

EVENT = {"choices": [{"index": 0, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "finish_reason": "stop"}]}


@contextlib.asynccontextmanager
async def connected(url: str, **more: Any) -> AsyncIterator[Upstream]:
    made = Upstream(url, {"authorization": "Bearer key"}, **more)
    try:
        yield made
    finally:
        await made.close()


async def _collect(events: AsyncIterator[Any], into: list[Any]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401  # what came before a failure counts


async def events_of(upstream: Upstream, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [event async for event in upstream.events("/x", body or {})]


async def test_a_request_and_its_answer(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: web.Response(body=b"whatever")
    async with connected(endpoint.url + "/") as upstream:
        assert await upstream.post("/chat", {"a": "é"}) == b"whatever"
    assert (endpoint.paths, endpoint.bodies) == (["/v1/chat"], [{"a": "é"}])
    sent = endpoint.headers[0]
    assert (sent["authorization"], sent["content-type"]) == ("Bearer key", "application/json")


async def test_a_password_in_the_url_is_sent_and_not_shown(endpoint: Endpoint) -> None:
    url = endpoint.url.replace("://", "://me:se%40cret@")
    upstream = Upstream(url, {})
    try:
        await upstream.post("/chat", {})
        assert upstream.base_url == endpoint.url
    finally:
        await upstream.close()
    async with connected(url) as upstream:
        await upstream.post("/chat", {})
    login = base64.b64encode(b"me:se@cret").decode()
    assert [sent["authorization"] for sent in endpoint.headers] == [f"Basic {login}", "Bearer key"]


async def test_connections_open_again_after_close(endpoint: Endpoint) -> None:
    async with connected(endpoint.url) as upstream:
        await upstream.post("/chat", {})
        await upstream.close()
        await upstream.close()
        assert await upstream.post("/chat", {}) == b"{}"


async def test_events_come_as_they_are_sent(endpoint: Endpoint) -> None:
    go = asyncio.Event()
    endpoint.answer = lambda _: streaming([sse([EVENT]), sse([LAST]), DONE], wait=go)
    async with connected(endpoint.url) as upstream, contextlib.aclosing(upstream.events("/x", {})) as events:
        assert await anext(events) == EVENT
        go.set()
        assert [event async for event in events] == [LAST]


async def test_a_stream_leaves_its_connection_to_the_next_call(endpoint: Endpoint) -> None:
    peers: set[Any] = set()

    def answer(_: dict[str, Any]) -> Any:
        async def write(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            peers.add(request.transport.get_extra_info("peername"))
            return await streaming([sse([LAST]), DONE])(request)

        return write

    endpoint.answer = answer
    async with connected(endpoint.url) as upstream:
        for _ in range(5):
            assert await events_of(upstream) == [LAST]
    assert len(peers) == 1


async def test_closing_the_events_ends_the_request(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: streaming([sse([EVENT])], end="hang")
    async with connected(endpoint.url) as upstream:
        events = upstream.events("/x", {})
        assert await anext(events) == EVENT
        await events.aclose()
        await asyncio.wait_for(endpoint.gone.wait(), 20)


REFUSAL = {"error": {"message": "prompt too long", "type": "BadRequestError", "param": None, "code": 400}}
REFUSALS: list[tuple[Callable[[], web.Response], int, Any, float | None]] = [
    (lambda: web.json_response(REFUSAL, status=400), 400, REFUSAL, None),
    (lambda: web.json_response({"detail": "x"}, status=429, headers={"retry-after": "3"}), 429, {"detail": "x"}, 3.0),
    (lambda: web.Response(text="oops", status=503, headers={"retry-after": "soon"}), 503, None, None),
    (lambda: web.Response(text="oops", status=503, headers={"retry-after": "-5"}), 503, None, 0.0),
    (lambda: web.Response(body=b"\xff\xfe", status=500, headers={"retry-after": "nan"}), 500, None, None),
    (lambda: web.json_response([1], status=500), 500, None, None),
    (lambda: web.Response(status=302, headers={"location": "http://127.0.0.1:1/"}), 502, None, None),
    (lambda: web.Response(status=204), 502, None, None),
]


@pytest.mark.parametrize(("answer", "status", "body", "retry_after"), REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_pass_through(
    endpoint: Endpoint,
    stream: bool,
    answer: Callable[[], web.Response],
    status: int,
    body: Any,
    retry_after: float | None,
) -> None:
    endpoint.answer = lambda _: answer()
    async with connected(endpoint.url) as upstream:
        with pytest.raises(UpstreamError, match="answered") as caught:
            await (events_of(upstream) if stream else upstream.post("/x", {}))
    assert (caught.value.status, caught.value.retry_after) == (status, retry_after)
    assert caught.value.to_body() == body if body is not None else endpoint.url in str(caught.value.to_body())


async def test_a_date_to_retry_at_is_understood(endpoint: Endpoint) -> None:
    date = formatdate(time.time() + 3600, usegmt=True)
    endpoint.answer = lambda _: web.Response(status=503, headers={"retry-after": date})
    async with connected(endpoint.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await upstream.post("/x", {})
    assert caught.value.retry_after is not None
    assert 3000 < caught.value.retry_after <= 3600


async def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
        async with connected(url) as upstream:
            for stream in (False, True):
                with pytest.raises(RequestError, match=f"{url} can't be reached") as caught:
                    await (events_of(upstream) if stream else upstream.post("/x", {}))
                assert caught.value.status == 502


async def test_an_address_that_is_none_is_told() -> None:
    async with connected("http://[/v1") as upstream:
        with pytest.raises(RequestError, match="can't be reached"):
            await upstream.post("/x", {})


async def test_an_endpoint_that_never_answers_is_given_up() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()  # connects, and nobody ever answers
        async with connected(f"http://127.0.0.1:{sock.getsockname()[1]}/v1", timeout=0.2) as upstream:
            for stream in (False, True):
                with pytest.raises(RequestError, match="did not answer in time") as caught:
                    await (events_of(upstream) if stream else upstream.post("/x", {}))
                assert caught.value.status == 504


@pytest.mark.parametrize(("pieces", "limits"), [([b": ping\n\n"], {"timeout": 0.3}), ([], {"idle_timeout": 0.3})])
async def test_a_stream_that_stands_still_is_given_up(
    endpoint: Endpoint, pieces: list[bytes], limits: dict[str, float]
) -> None:
    endpoint.answer = lambda _: streaming(pieces or [sse([EVENT])], end="hang")
    async with connected(endpoint.url, **limits) as upstream:
        with pytest.raises(RequestError, match="did not answer in time") as caught:
            await events_of(upstream)
        assert caught.value.status == 504
        await asyncio.wait_for(endpoint.gone.wait(), 20)


async def test_a_slow_reader_is_no_idle_endpoint(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: streaming([sse([EVENT]), sse([EVENT]), sse([LAST]), DONE])
    seen: list[Any] = []
    async with connected(endpoint.url, idle_timeout=0.1) as upstream:
        async for event in upstream.events("/x", {}):
            seen.append(event)
            await asyncio.sleep(0.3)
    assert seen == [EVENT, EVENT, LAST]


@pytest.mark.parametrize("early", [sse([EVENT]), sse([EVENT]) + b'data: {"a": "\xc3', b"", b"data: {"])
@pytest.mark.parametrize("end", ["cut", "well"])
async def test_a_stream_that_breaks_off_is_told(endpoint: Endpoint, early: bytes, end: str) -> None:
    endpoint.answer = lambda _: streaming([early] if early else [], end=end)
    seen: list[Any] = []
    async with connected(endpoint.url) as upstream:
        events = upstream.events("/x", {})
        with pytest.raises(RequestError, match=r"early|can't be reached") as caught:
            await _collect(events, seen)
    assert caught.value.status == 502
    whole = [EVENT] * early.count(b"\n\n")
    # A cut connection may take with it what was not read yet.
    assert seen == whole or (end == "cut" and seen == [])


async def test_half_a_character_between_pieces_is_put_together(endpoint: Endpoint) -> None:
    whole = sse([{"text": "né\U0001f600"}, LAST])
    endpoint.answer = lambda _: streaming([whole[i : i + 1] for i in range(len(whole))])
    async with connected(endpoint.url) as upstream:
        assert await events_of(upstream) == [{"text": "né\U0001f600"}, LAST]


async def test_a_stream_request_answered_with_json_is_told(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: web.json_response({"id": 1})
    async with connected(endpoint.url) as upstream:
        with pytest.raises(RequestError, match=r"request for a stream with JSON.*id") as caught:
            await events_of(upstream)
    assert caught.value.status == 502


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_long_an_answer_is_refused(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 100_000)
    block = b"x" * 50_000
    endpoint.answer = lambda _: streaming([block] * 3) if chunked else web.Response(body=block * 3)
    async with connected(endpoint.url) as upstream:
        with pytest.raises(RequestError, match="more than 100000 bytes") as caught:
            await upstream.post("/x", {})
        assert caught.value.status == 502
        endpoint.answer = lambda _: web.Response(body=block * 2)
        assert await upstream.post("/x", {}) == block * 2


async def test_too_long_a_stream_is_refused(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 10_000)
    endpoint.answer = lambda _: streaming([sse([EVENT])] * 1000)
    async with connected(endpoint.url) as upstream:
        with pytest.raises(RequestError, match="more than 10000 bytes"):
            await events_of(upstream)


async def test_a_body_that_cannot_be_written_is_the_callers_fault(endpoint: Endpoint) -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    async with connected(endpoint.url) as upstream:
        for stream in (False, True):
            with pytest.raises(RequestError, match="can't be written as JSON") as caught:
                await (events_of(upstream, {"a": deep}) if stream else upstream.post("/x", {"a": deep}))
            assert caught.value.status == 400


@pytest.mark.parametrize(
    ("data", "expected"), [(b"not json", "invalid JSON"), (b'{"a": "\xc3"}', "invalid JSON"), (b"[]", "no JSON object")]
)
async def test_an_answer_that_is_no_object_is_told(data: bytes, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        Upstream("http://there", {}).read_object(data)
    assert caught.value.status == 502


async def test_connections_are_bounded_and_the_rest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    open_now, most = 0, 0

    def answer(_: dict[str, Any]) -> Any:
        async def write(request: web.Request) -> web.StreamResponse:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            await asyncio.sleep(0.01)
            open_now -= 1
            return web.json_response({})

        return write

    async with serving() as endpoint, connected(endpoint.url) as upstream:
        endpoint.answer = answer
        answers = await asyncio.gather(*(upstream.post("/x", {"n": n}) for n in range(30)))
    assert (len(answers), most) == (30, 3)
