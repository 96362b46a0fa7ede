"""Paths, bad input, tokens and limits, over plain HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import orjson
import pytest

from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

from .conftest import QUESTION, LocalBackend, until

GOOD: dict[str, Any] = {"model": "tiny", "messages": QUESTION}


@pytest.fixture
async def http(proxy: LLMProxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}") as session:
        yield session


async def post(http: aiohttp.ClientSession, path: str, **kwargs: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(path, **kwargs) as answer:
        return answer.status, await answer.json()


def message(body: dict[str, Any]) -> str:
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]["message"]


@pytest.mark.parametrize("base", ["", "/v1"])
async def test_every_path_with_and_without_ids(
    http: aiohttp.ClientSession, rollout: AttemptedRollout, backend: LocalBackend, base: str
) -> None:
    attempt = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    for prefix in ("", attempt):
        status, body = await post(http, f"{prefix}{base}/chat/completions", json=GOOD)
        assert (status, body["choices"][0]["message"]["content"]) == (200, "answer 0")
        async with http.get(f"{prefix}{base}/models") as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["tiny"]
        async with http.get(f"{prefix}/health") as answer:
            assert await answer.json() == {"status": "ok", "models": 1}


async def test_the_openai_client_lists_models(proxy: LLMProxy) -> None:
    async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="x") as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize(
    ("raw", "status", "expected"),
    [
        (b"{", 400, "not valid JSON"),
        (b"", 400, "not valid JSON"),
        (b'{"model": "\xff"}', 400, "not valid JSON"),
        (b'{"model": "tiny", "messages": [{"content": "\\ud800"}]}', 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"[]", 400, "must be a JSON object, not a list"),
        (b"3", 400, "must be a JSON object, not a number"),
        (b'{"messages": []}', 400, "`model` must be a string"),
        (b'{"model": 3, "messages": []}', 400, "`model` must be a string"),
        (b'{"model": "tiny"}', 400, "`messages` must be a list of messages, and is missing"),
        (b'{"model": "tiny", "messages": "hi"}', 400, "`messages` must be a list of messages, not a string"),
        (b'{"model": "tiny", "messages": [], "stream": 1}', 400, "`stream` must be true or false"),
        (b'{"model": "huge", "messages": []}', 404, "no model `huge` here; served models: `tiny`"),
    ],
)
async def test_bad_bodies(
    http: aiohttp.ClientSession,
    store: InMemoryLightningStore,
    rollout: AttemptedRollout,
    backend: LocalBackend,
    raw: bytes,
    status: int,
    expected: str,
) -> None:
    path = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1/chat/completions"
    for url in ("/v1/chat/completions", path):
        answered, body = await post(http, url, data=raw)
        assert (answered, expected in message(body)) == (status, True), body
    assert backend.bodies == []
    (span,) = await store.query_spans(rollout.rollout_id)
    assert span.status.status_code == "ERROR"
    assert expected in (span.status.description or "")


@pytest.mark.parametrize(
    "path",
    [
        "/rollout/ro%2F1/attempt/at-1/v1/chat/completions",
        "/rollout/../attempt/at-1/v1/chat/completions",
        "/rollout/ro-1/attempt/at-1%0d%0ax-injected:%201/v1/chat/completions",
        "/rollout/ro-1/attempt/at%001/v1/chat/completions",
        "/rollout/ro-1/attempt/" + "a" * 200 + "/v1/chat/completions",
        "/rollout/r%C3%B6/attempt/at-1/v1/chat/completions",
        "/rollout//attempt//v1/chat/completions",
        "/v1/chat/completions/",
        "/v2/chat/completions",
        "/v1/rollout/ro-1/attempt/at-1/chat/completions",
        "/complete",
        "/",
    ],
)
async def test_strange_paths_are_not_found(proxy: LLMProxy, backend: LocalBackend, path: str) -> None:
    # By hand: clients tidy paths up.
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    data = orjson.dumps(GOOD)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    lines, _, body = answer.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 404")
    assert b"x-injected" not in lines
    assert "path" in message(orjson.loads(body))
    assert backend.bodies == []


async def test_the_wrong_method_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/chat/completions") as answer:
        assert answer.status == 405


async def test_long_bodies_are_refused_by_their_declared_and_by_their_real_length(
    store: InMemoryLightningStore, backend: LocalBackend
) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 1000

    proxy = LLMProxy(store=store, max_body_bytes=20_000)
    proxy.set_backend("tiny", backend)
    await proxy.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}") as http:
            for data in (b" " * 20_001, drip()):
                status, body = await post(http, "/v1/chat/completions", data=data)
                assert status == 413
                assert "longer than 20000 bytes" in message(body)
            padded = b'{"model": "tiny", "messages": []}' + b" " * 19_000
            assert (await post(http, "/v1/chat/completions", data=padded))[0] == 200
    finally:
        await proxy.stop()
    assert len(backend.bodies) == 1


async def test_more_bodies_than_memory_allows_are_refused_for_now(
    store: InMemoryLightningStore, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies that wait for their answers count, those that are answered do not."""
    monkeypatch.setattr("agentlightning.llm_proxy.app.MAX_HELD_BYTES", 3000)
    proxy = LLMProxy(store=store, max_body_bytes=2000)
    proxy.set_backend("tiny", backend)
    await proxy.start()
    padded = orjson.dumps(GOOD) + b" " * 1400
    backend.hold = asyncio.Event()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}") as http:
            running = [asyncio.create_task(post(http, "/v1/chat/completions", data=padded)) for _ in range(2)]
            await until(lambda: backend.waiting == 2)
            async with http.post("/v1/chat/completions", data=padded) as answer:
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            proxy._server.call_in_loop(backend.hold.set)
            assert [(await one)[0] for one in running] == [200, 200]
            assert (await post(http, "/v1/chat/completions", data=padded))[0] == 200
    finally:
        await proxy.stop()


async def test_a_body_in_pieces_takes_no_more_room_than_it_has(
    store: InMemoryLightningStore, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it is is not known beforehand."""
    monkeypatch.setattr("agentlightning.llm_proxy.app.MAX_HELD_BYTES", 3000)

    async def pieces() -> AsyncIterator[bytes]:
        yield orjson.dumps(GOOD)

    proxy = LLMProxy(store=store, max_body_bytes=2000)
    proxy.set_backend("tiny", backend)
    await proxy.start()
    backend.hold = asyncio.Event()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}") as http:
            running: list[asyncio.Task[Any]] = []
            for number in range(1, 6):
                running.append(asyncio.create_task(post(http, "/v1/chat/completions", data=pieces())))
                await until(lambda number=number: backend.waiting == number or running[-1].done())
            proxy._server.call_in_loop(backend.hold.set)
            assert [(await one)[0] for one in running] == [200] * 5
            padded = orjson.dumps(GOOD) + b" " * 1900
            assert (await post(http, "/v1/chat/completions", data=padded))[0] == 200
    finally:
        await proxy.stop()


async def test_the_token_is_asked_for(store: InMemoryLightningStore, backend: LocalBackend) -> None:
    proxy = LLMProxy(store=store, api_key="s3cret")
    proxy.set_backend("tiny", backend)
    await proxy.start()
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer other"},
        {"authorization": "Basic s3cret"},
        {"authorization": "s3cret"},
        {"x-api-key": ""},
    ]
    right = [{"authorization": "Bearer s3cret"}, {"authorization": "bearer s3cret"}, {"x-api-key": "s3cret"}]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}") as http:
            for headers in wrong:
                status, body = await post(http, "/v1/chat/completions", json=GOOD, headers=headers)
                assert (status, "API key" in message(body)) == (401, True)
                async with http.get("/v1/models", headers=headers) as answer:
                    assert answer.status == 401
            assert backend.bodies == []
            for headers in right:
                assert (await post(http, "/v1/chat/completions", json=GOOD, headers=headers))[0] == 200
            async with http.get("/health") as answer:
                assert answer.status == 200
        resource = proxy.as_resource()
        async with openai.AsyncOpenAI(base_url=resource.endpoint, api_key=resource.api_key) as client:
            await client.chat.completions.create(model=resource.model, messages=QUESTION)
    finally:
        await proxy.stop()


async def test_a_client_that_goes_away_while_sending_does_no_harm(
    proxy: LLMProxy, http: aiohttp.ClientSession, backend: LocalBackend
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await post(http, "/v1/chat/completions", json=GOOD))[0] == 200
    assert len(backend.bodies) == 1
