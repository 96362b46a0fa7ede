"""The HTTP face, with the stock client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import uvicorn

from agentlightning.inference import ChatService, Engine
from agentlightning.inference.server import bind, create_app, run
from agentlightning.types import ConfigError

from .conftest import ANSWER, QUESTION, TOOLS
from .test_engine import wait_until


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Puts services on free ports and gives their base URLs."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(service: ChatService, **settings: Any) -> str:
        listener = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_app(service, **settings), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


def request(method: str, url: str, body: bytes | None = None, timeout: float = 100) -> tuple[int, Any]:
    """Status and JSON of a plain HTTP request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(method, parts.path, body)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


@pytest.fixture
def engine(start: Callable[..., Engine], trained: Any, tokenizer: Any) -> Engine:
    return start(trained, tokenizer=tokenizer)


@pytest.fixture
def url(engine: Engine, tokenizer: Any, serve: Callable[..., str]) -> str:
    return serve(ChatService(engine, tokenizer, "tiny"))


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_conversation_with_a_tool(client: openai.OpenAI) -> None:
    messages: list[Any] = [QUESTION]
    settings: dict[str, Any] = {"model": "tiny", "tools": TOOLS, "temperature": 0, "max_tokens": 60}
    reply = client.chat.completions.create(messages=messages, **settings)
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"expression": "3 + 4"}
    messages += [reply.choices[0].message, {"role": "tool", "content": "7", "tool_call_id": call.id}]
    reply = client.chat.completions.create(messages=messages, **settings)
    assert reply.choices[0].message.content == ANSWER["content"]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_token_ids_and_logprobs_are_where_vllm_has_them(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=[QUESTION], max_tokens=5, logprobs=True, extra_body={"return_token_ids": True}
    )
    assert len(reply.choices[0].token_ids) == reply.usage.completion_tokens
    assert len(reply.prompt_token_ids) == reply.usage.prompt_tokens
    assert len(reply.choices[0].logprobs.content) == reply.usage.completion_tokens
    assert all(entry.logprob <= 0 for entry in reply.choices[0].logprobs.content)


def test_models_and_health(client: openai.OpenAI, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    client.chat.completions.create(model="tiny", messages=[QUESTION], max_tokens=3)
    _, health = request("GET", url.removesuffix("/v1") + "/health")
    assert health["status"] == "ok"
    assert health["engine"]["requests"] == 1


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"temperature": -1}, openai.BadRequestError, "`temperature`"),
        ({"presence_penalty": 1}, openai.BadRequestError, "`presence_penalty`"),
        ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, r"`messages\[0\].role`"),
        ({"messages": [{"role": "user", "content": "seven " * 900}]}, openai.BadRequestError, "context of 512"),
        ({"stop": ["x"] * 10_000}, openai.BadRequestError, "`stop` has 10000"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "gpt-4o"),
    ],
)
def test_refusals_reach_the_client(client: openai.OpenAI, fields: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.chat.completions.create(**({"model": "tiny", "messages": [QUESTION], "max_tokens": 3} | fields))
    assert caught.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/chat/completions", b"{", 400),
        ("POST", "/chat/completions", b"[]", 400),
        ("POST", "/chat/completions", b'{"messages": "\xff"}', 400),
        ("GET", "/chat/completions", None, 405),
        ("POST", "/embeddings", b"{}", 404),
    ],
)
def test_every_error_is_openais_object(url: str, method: str, path: str, content: bytes | None, status: int) -> None:
    got, body = request(method, url + path, content)
    assert got == status
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_a_client_that_hangs_up_frees_its_slot(url: str, engine: Engine) -> None:
    body = {"messages": [QUESTION], "max_tokens": 450, "n": 64, "temperature": 5.0}
    with pytest.raises(TimeoutError):
        request("POST", url + "/chat/completions", json.dumps(body).encode(), timeout=0.2)
    wait_until(lambda: engine.stats()["live"] + engine.stats()["queued"] == 0)
    assert engine.stats()["tokens"] < 64 * 450


def test_a_stopped_engine_answers_503(client: openai.OpenAI, engine: Engine) -> None:
    engine.stop()
    with pytest.raises(openai.InternalServerError, match="not running") as caught:
        client.chat.completions.create(model="tiny", messages=[QUESTION])
    assert caught.value.status_code == 503


def test_a_key_is_asked_for_where_one_is_set(engine: Engine, tokenizer: Any, serve: Callable[..., str]) -> None:
    url = serve(ChatService(engine, tokenizer, "tiny"), api_key="s3cret")
    for key in ("wrong", "s3cre"):
        with openai.OpenAI(base_url=url, api_key=key) as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
    with openai.OpenAI(base_url=url, api_key="s3cret") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_taken_port_is_named(engine: Engine, tokenizer: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1.*`port`"):
            run(ChatService(engine, tokenizer, "tiny"), "127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_open_address_needs_a_key(engine: Engine, tokenizer: Any, host: str) -> None:
    with pytest.raises(ConfigError, match="`api_key`"):
        run(ChatService(engine, tokenizer, "tiny"), host, 0)
