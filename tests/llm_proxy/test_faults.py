"""Backends that fail in every way, through the whole gateway: what the agent gets, what is on record, what comes next.

For each interface, streamed and not: one clear error in the interface's own form, a span that says so and never tokens
of a broken answer, and a gateway that serves the next call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from agentlightning import semconv
from agentlightning.adapter import episode_from_spans
from agentlightning.llm_proxy import HttpBackend, LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

from .agents import ERRORS, PATHS, WRITERS, Json, Name, ask, body_of
from .backends.endpoint import DONE, Endpoint, Write, serving, sse, streaming, vllm_chat_chunks, vllm_completion_chunks
from .conftest import until
from .upstreams import Upstream

Answer = Callable[[Json], web.Response | Write]


@dataclass(frozen=True)
class Fault:
    """What an endpoint does, and what becomes of it."""

    answer: Answer
    status: int
    told: str
    """Part of the error's message."""


def raw(data: bytes, status: int = 200, **headers: str) -> Answer:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.Response(body=data, status=status, content_type="application/json", headers=told)


def whole(change: Callable[[Json], Any]) -> Answer:
    """A good answer, spoilt."""

    def answer(body: Json) -> web.Response:
        good = Upstream().vllm(body)
        assert isinstance(good, web.Response)
        assert isinstance(good.body, bytes)
        data = orjson.loads(good.body)
        return web.json_response(change(data) or data)

    return answer


async def _dies(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _dies_midway(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    return await _dies(request)


async def _hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


WHOLE: dict[str, Fault] = {
    "dies": Fault(lambda _: _dies, 502, "can't be reached"),
    "dies midway": Fault(lambda _: _dies_midway, 502, "ended its answer early"),
    "hangs": Fault(lambda _: _hangs, 504, "did not answer in time"),
    "malformed JSON": Fault(raw(b'{"choices": [}'), 502, "invalid JSON"),
    "half a character": Fault(raw(b'{"choices": "\xc3"}'), 502, "invalid JSON"),
    "no object": Fault(raw(b"[1, 2]"), 502, "no JSON object"),
    "no choices": Fault(raw(b'{"id": "x"}'), 502, "no list of `choices`"),
    "no choice": Fault(raw(b'{"choices": []}'), 502, "no `choices`"),
    "choices that are none": Fault(raw(b'{"choices": [7]}'), 502, "no list of `choices`"),
    "too few log-probs": Fault(
        whole(lambda answer: answer["choices"][0].update(logprobs={"content": [], "token_logprobs": []})),
        502,
        "3 token ids but 0 log-probs",
    ),
    "a wrong count": Fault(whole(lambda answer: answer["usage"].update(completion_tokens=4)), 502, "is 4"),
    "negative ids": Fault(whole(lambda answer: answer["choices"][0].update(token_ids=[1, -2, 3])), 502, "malformed"),
    "ids that are none": Fault(whole(lambda answer: answer["choices"][0].update(token_ids="abc")), 502, "malformed"),
    "an abort": Fault(whole(lambda answer: answer["choices"][0].update(finish_reason="abort")), 503, "gave the call"),
    "a page": Fault(raw(b"<html>Bad Gateway</html>", 502), 502, "answered 502"),
    "busy": Fault(raw(b'{"error": {"message": "slow down"}}', 429, retry_after="7"), 429, "slow down"),
    "refuses": Fault(raw(b'{"error": {"message": "no such", "type": "x", "code": "y"}}', 404), 404, "no such"),
    "an error of another form": Fault(raw(b'{"detail": "oh"}', 500), 500, "oh"),
    "an error that is a text": Fault(raw(b'{"error": "oh"}', 500), 500, "oh"),
    "a redirect": Fault(raw(b"", 307, location="http://127.0.0.1:1/"), 502, "answered 307"),
    "an empty success": Fault(raw(b"", 204), 502, "answered 204"),
}


def spoilt(change: Callable[[list[Json]], Any], end: str = "well", more: tuple[bytes, ...] = (DONE,)) -> Answer:
    """A good stream, spoilt."""

    def answer(body: Json) -> Write:
        chunks = (vllm_chat_chunks if "messages" in body else vllm_completion_chunks)(body)
        change(chunks)
        return streaming([*(sse([chunk]) for chunk in chunks), *more], end)

    return answer


def cut(chunks: list[Json]) -> None:
    """After the first token."""
    del chunks[next(at for at, chunk in enumerate(chunks) if chunk["choices"][0].get("token_ids")) + 1 :]


def last(chunks: list[Json]) -> Json:
    """The choice in the chunk that ends it."""
    return next(c for chunk in chunks for c in chunk["choices"] if c["finish_reason"])


ENGINE_DIED = {"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}}
STREAMED: dict[str, Fault] = {
    "dies": Fault(spoilt(cut, "cut", ()), 502, "early|can't be reached"),
    "ends early": Fault(spoilt(cut, "well", ()), 502, "ended its stream early"),
    "says that it is done too early": Fault(spoilt(cut), 502, "ended its stream early"),
    "hangs": Fault(spoilt(cut, "hang", ()), 504, "did not answer in time"),
    "malformed JSON": Fault(spoilt(cut, more=(b'data: {"choices": [}\n\n',)), 502, "invalid JSON"),
    "malformed events": Fault(spoilt(cut, more=(b"\x00\xff garbage\n\n", b"data: [1]\n\n")), 502, "no JSON object"),
    "half a character": Fault(spoilt(cut, more=(b'data: {"choices": "\xc3"}\n\n',)), 502, "invalid JSON"),
    "half a character at the end": Fault(spoilt(cut, more=(b'data: {"choices": "\xc3',)), 502, "within an event"),
    "a malformed chunk": Fault(spoilt(cut, more=(sse([{"choices": [{"index": "0"}]}]),)), 502, "malformed chunk"),
    "too few log-probs": Fault(spoilt(lambda chunks: last(chunks).update(logprobs=None)), 502, "log-probs"),
    "a wrong count": Fault(spoilt(lambda chunks: chunks[-1]["usage"].update(completion_tokens=4)), 502, "is 4"),
    "missing ids": Fault(spoilt(lambda chunks: last(chunks).update(token_ids=[])), 502, "token ids but"),
    "an abort": Fault(spoilt(lambda chunks: last(chunks).update(finish_reason="abort")), 503, "gave the call up"),
    "an error": Fault(spoilt(cut, more=(sse([ENGINE_DIED]), DONE)), 500, "EngineCore died"),
    "an error that is a text": Fault(spoilt(cut, more=(sse([{"error": "oh"}]), DONE)), 502, "oh"),
}
BEGINS: dict[str, Fault] = {
    "dies": Fault(lambda _: _dies, 502, "can't be reached"),
    "hangs": Fault(lambda _: _hangs, 504, "did not answer in time"),
    "nothing": Fault(lambda _: streaming([]), 502, "ended its stream early"),
    "only its end": Fault(lambda _: streaming([DONE]), 502, "without an answer"),
    "an error": Fault(lambda _: streaming([sse([ENGINE_DIED]), DONE]), 500, "EngineCore died"),
    "JSON": Fault(raw(b'{"choices": []}'), 502, "a request for a stream with JSON"),
    "busy": Fault(raw(b'{"error": {"message": "slow down"}}', 429, retry_after="7"), 429, "slow down"),
    "a page": Fault(raw(b"<html>Bad Gateway</html>", 502), 502, "answered 502"),
}


@dataclass
class World:
    """A gateway in front of an endpoint, and one attempt."""

    proxy: LLMProxy
    store: InMemoryLightningStore
    rollout: AttemptedRollout
    endpoint: Endpoint

    async def post(self, name: Name, *, stream: bool) -> tuple[int, Mapping[str, str], bytes]:
        """Ask as no client does: its status, headers and bytes."""
        url = self.proxy.as_resource(self.rollout.rollout_id, self.rollout.attempt.attempt_id).endpoint
        async with (
            aiohttp.ClientSession() as session,
            session.post(url + PATHS[name], json={**body_of(name), "stream": stream}) as answer,
        ):
            return answer.status, answer.headers, await answer.read()


@pytest.fixture
async def world(store: InMemoryLightningStore, rollout: AttemptedRollout) -> AsyncIterator[World]:
    async with serving() as endpoint:
        proxy = LLMProxy(store=store, num_retries=0)
        proxy.set_backend("main", HttpBackend(endpoint.url, model="m", timeout=1.0, idle_timeout=1.0))
        await proxy.start()
        yield World(proxy, store, rollout, endpoint)
        await proxy.stop()


def check_form(name: Name, body: Any) -> str:
    """The message of an error, which has the form of its interface."""
    if name == "messages":
        assert body.keys() >= {"type", "error"}
        assert body["type"] == "error"
        assert isinstance(body["error"]["type"], str)
    error = body["error"]
    assert isinstance(error, dict)
    assert isinstance(error["message"], str)
    return error["message"]


async def check_aftermath(world: World, name: Name, fault: Fault, *, stream: bool) -> None:
    """Each call has one span, marked, without tokens, and counts as the backend's doing; the next call is served."""
    spans = await world.store.query_spans(world.rollout.rollout_id)
    assert len(spans) == len(world.endpoint.bodies)
    for span in spans:
        assert (span.name, span.status.status_code, span.token_call) == (semconv.LLM_CALL_SPAN, "ERROR", None)
        assert re.search(fault.told, str(span.status.description))
        assert span.attributes[semconv.ERROR_TYPE] == str(fault.status)
        assert semconv.TOKEN_IDS not in span.attributes
    world.endpoint.answer = (upstream := Upstream()).vllm
    upstream.go_on.set()
    got = await ask(name, world.proxy, world.rollout, stream=stream)
    assert got.texts[0].startswith("w")
    found = await world.store.query_spans(world.rollout.rollout_id)
    episode = episode_from_spans(found, world.rollout.rollout_id)
    assert (len(episode.turns), episode.missing_token_ids) == (1, 0)
    assert episode.backend_failures == len(spans) * (fault.status >= 500 or fault.status == 429)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", WHOLE)
async def test_an_answer_that_fails(world: World, kind: str, name: Name) -> None:
    fault = WHOLE[kind]
    world.endpoint.answer = fault.answer
    with pytest.raises(ERRORS, match=fault.told) as caught:
        await ask(name, world.proxy, world.rollout)
    assert caught.value.status_code == fault.status  # type: ignore[attr-defined]
    status, headers, data = await world.post(name, stream=False)
    assert (status, headers["content-type"]) == (fault.status, "application/json")
    assert headers.get("retry-after") == ("7" if kind == "busy" else None)
    assert re.search(fault.told, check_form(name, orjson.loads(data)))
    await check_aftermath(world, name, fault, stream=False)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_that_fails_midway(world: World, kind: str, name: Name) -> None:
    """The error is its last event, and nothing says before that the answer is complete."""
    fault = STREAMED[kind]
    world.endpoint.answer = fault.answer
    with pytest.raises(ERRORS, match=fault.told):
        await ask(name, world.proxy, world.rollout, stream=True)
    status, headers, data = await world.post(name, stream=True)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = [orjson.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: ")]
    assert re.search(fault.told, check_form(name, events[-1]))
    assert not any(event.get("error") for event in events[:-1])
    for end in (b"[DONE]", b"message_stop", b"response.completed", b'"stop"', b'"end_turn"'):
        assert end not in data
    await check_aftermath(world, name, fault, stream=True)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", BEGINS)
async def test_a_stream_that_does_not_begin_has_a_status(world: World, kind: str, name: Name) -> None:
    fault = BEGINS[kind]
    world.endpoint.answer = fault.answer
    with pytest.raises(ERRORS, match=fault.told) as caught:
        await ask(name, world.proxy, world.rollout, stream=True)
    assert caught.value.status_code == fault.status  # type: ignore[attr-defined]
    await check_aftermath(world, name, fault, stream=True)


@pytest.mark.parametrize("fault", [WHOLE["dies"], WHOLE["hangs"], WHOLE["malformed JSON"], WHOLE["busy"]])
async def test_embeddings_that_fail(world: World, fault: Fault) -> None:
    world.endpoint.answer = fault.answer
    with pytest.raises(ERRORS, match=fault.told) as caught:
        await ask("embeddings", world.proxy, world.rollout)
    assert caught.value.status_code == fault.status  # type: ignore[attr-defined]
    (span,) = await world.store.query_spans(world.rollout.rollout_id)
    assert (span.name, span.status.status_code) == (semconv.EMBEDDING_SPAN, "ERROR")


# -- agents that go away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WRITERS)
async def test_an_agent_that_goes_away_ends_its_call_upstream(world: World, name: Name, stream: bool) -> None:
    arrived = asyncio.Event()
    if stream:
        world.endpoint.answer = spoilt(cut, "hang", ())
    else:
        world.endpoint.answer = lambda _: _hangs
    asking = asyncio.create_task(ask(name, world.proxy, world.rollout, stream=stream, on_event=arrived.set))
    await (arrived.wait() if stream else until(lambda: bool(world.endpoint.bodies)))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(world.endpoint.gone.wait(), 30)
    while not (spans := await world.store.query_spans(world.rollout.rollout_id)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    (span,) = spans
    assert (span.status.status_code, span.token_call) == ("ERROR", None)
    assert span.attributes[semconv.ERROR_TYPE] == "cancelled"
    assert episode_from_spans(spans, world.rollout.rollout_id).backend_failures == 0
