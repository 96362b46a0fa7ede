"""What agents send that can't be served, in each interface, and through the clients that they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import orjson
import psutil
import pytest

from agentlightning import semconv
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

from .agents import NAMES, PATHS, WRITERS, Name, ask, body_of
from .conftest import LocalBackend

MEGABYTE = 1024 * 1024


async def raw(port: int, head: list[str], body: bytes = b"") -> tuple[int, bytes, bytes]:
    """A request by hand: its status, the head of the answer, and its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [*head, "host: x", "connection: close", f"content-length: {len(body)}"]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    told, _, data = answer.partition(b"\r\n\r\n")
    return int(told.split(b" ")[1]), told, data


def check_form(name: Name, data: bytes) -> str:
    body = orjson.loads(data)
    assert (body.get("type") == "error") == (name == "messages")
    return body["error"]["message"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_wrong_or_missing_key_is_told_in_the_interface_s_form(
    store: InMemoryLightningStore, backend: LocalBackend, rollout: AttemptedRollout, name: Name
) -> None:
    proxy = LLMProxy(store=store, api_key="s3cret")
    proxy.set_backend("main", backend)
    await proxy.start()
    try:
        with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError), match="API key"):
            await ask(name, proxy, rollout, key="other")
        status, _, data = await raw(proxy.port, [f"POST /v1{PATHS[name]} HTTP/1.1"], orjson.dumps(body_of(name)))
        assert (status, "API key" in check_form(name, data)) == (401, True)
        assert "s3cret" not in data.decode()
        if name == "messages":
            assert orjson.loads(data)["error"]["type"] == "authentication_error"
    finally:
        await proxy.stop()
    assert (backend.bodies, list(await store.query_spans(rollout.rollout_id))) == ([], [])


@pytest.mark.parametrize("name", NAMES)
async def test_an_unknown_model_names_those_that_are_served(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, name: Name
) -> None:
    injected = "gpt\r\nx-injected: 1"
    for model in ("huge", injected):
        with pytest.raises((openai.NotFoundError, anthropic.NotFoundError), match="served models: `tiny`") as caught:
            await ask(name, proxy, rollout, model=model)
        assert "x-injected" not in caught.value.response.headers
    spans = await store.query_spans(rollout.rollout_id)
    assert [span.attributes[semconv.ERROR_TYPE] for span in spans] == ["404", "404"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "ids", ["ro%0d%0ax-injected:%201/attempt/at", "..%2f../attempt/at", "ro-1/attempt/at%00", "ro-1'--/attempt/at"]
)
async def test_strange_ids_are_told_in_the_interface_s_form(
    proxy: LLMProxy, backend: LocalBackend, name: Name, ids: str
) -> None:
    path = f"/rollout/{ids}/v1{PATHS[name]}"
    status, head, data = await raw(proxy.port, [f"POST {path} HTTP/1.1"], orjson.dumps(body_of(name, model="tiny")))
    assert (status, b"x-injected" in head) == (404, False)
    if "%2f" not in ids:  # with one more slash it is no path of any interface
        check_form(name, data)
    assert backend.bodies == []


@pytest.mark.parametrize("name", WRITERS)
async def test_headers_of_an_agent_stay_here(proxy: LLMProxy, backend: LocalBackend, name: Name) -> None:
    """Ids come from the path alone; no header makes a call somebody else's."""
    backend.speaks = frozenset({"chat", "completions"})
    head = [f"POST /v1{PATHS[name]} HTTP/1.1", "x-rollout-id: ro-1", "x-attempt-id: at-1", "x-forwarded-for: y"]
    status, _, _ = await raw(proxy.port, head, orjson.dumps(body_of(name, model="tiny")))
    assert status == 200
    assert not {"x-rollout-id", "rollout_id", "metadata"} & backend.bodies[0].keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_of_100_megabytes_takes_no_memory(proxy: LLMProxy, name: Name, declared: bool) -> None:
    """It is refused when its length is told, else as soon as it is too long; what still comes is thrown away."""
    process, piece = psutil.Process(), b" " * MEGABYTE
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    length = f"content-length: {100 * MEGABYTE}" if declared else "transfer-encoding: chunked"
    writer.write(f"POST /v1{PATHS[name]} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode())
    before = most = process.memory_info().rss
    async for data in pieces(piece, declared):
        writer.write(data)
        await writer.drain()
        most = max(most, process.memory_info().rss)
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    data = await reader.readexactly(size)
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 413")
    assert "longer than" in check_form(name, data)
    assert most - before < 50 * MEGABYTE


async def pieces(piece: bytes, declared: bool) -> AsyncIterator[bytes]:
    for _ in range(100):
        yield piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece)
    if not declared:
        yield b"0\r\n\r\n"


@pytest.mark.parametrize("name", NAMES)
async def test_stored_conversations_and_the_like_are_refused_by_name(
    proxy: LLMProxy, backend: LocalBackend, rollout: AttemptedRollout, name: Name
) -> None:
    field: dict[str, Any] = {
        "responses": {"previous_response_id": "resp_1"},
        "messages": {"container": "c"},
    }.get(name, {"stream": "yes"})
    status, _, data = await raw(
        proxy.port, [f"POST /v1{PATHS[name]} HTTP/1.1"], orjson.dumps(body_of(name, model="tiny") | field)
    )
    assert (status, next(iter(field)) in check_form(name, data)) == (400, True)
    assert backend.bodies == []
