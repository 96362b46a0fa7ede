"""The HTTP face, with the stock client."""

from __future__ import annotations

import http.client
import itertools
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
from agentlightning.inference.server import create_app, run
from agentlightning.types import ConfigError
from agentlightning.utils.server_thread import bind

from .conftest import ANSWER, QUESTION, TOOLS, make_model
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


def test_a_streamed_conversation_with_a_tool(client: openai.OpenAI) -> None:
    messages: list[Any] = [QUESTION]
    settings: dict[str, Any] = {"model": "tiny", "tools": TOOLS, "temperature": 0, "max_tokens": 60}
    with client.chat.completions.stream(messages=messages, **settings) as stream:
        said = stream.get_final_completion()
    assert said.choices[0].finish_reason == "tool_calls"
    assert said.choices[0].message.content == "Let me see."
    (call,) = said.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"expression": "3 + 4"}
    messages += [said.choices[0].message, {"role": "tool", "content": "7", "tool_call_id": call.id}]
    chunks = list(
        client.chat.completions.create(
            messages=messages, stream=True, stream_options={"include_usage": True}, logprobs=True, **settings
        )
    )
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == ANSWER["content"]
    assert len([text for text in texts if text]) > 1
    whole = client.chat.completions.create(messages=messages, logprobs=True, **settings)
    assert chunks[-1].usage == whole.usage
    told = [
        entry for chunk in chunks for choice in chunk.choices if choice.logprobs for entry in choice.logprobs.content
    ]
    assert told == whole.choices[0].logprobs.content


async def test_streams_of_the_async_client(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        settings: dict[str, Any] = {"model": "tiny", "messages": [QUESTION], "max_tokens": 30, "seed": 3, "n": 2}
        whole = await client.chat.completions.create(**settings)
        texts = ["", ""]
        async for chunk in await client.chat.completions.create(stream=True, **settings):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [choice.message.content for choice in whole.choices]


def test_completions(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {
        "model": "tiny",
        "prompt": ["What is", "3 plus"],
        "seed": 1,
        "max_tokens": 9,
        "logprobs": 2,
    }
    extra: Any = {"return_token_ids": True}
    whole = client.completions.create(extra_body=extra, **settings)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert all(len(choice.logprobs.tokens) == len(choice.token_ids) for choice in whole.choices)
    texts, ids = ["", ""], [list[int](), list[int]()]
    for chunk in client.completions.create(stream=True, extra_body=extra, **settings):
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        ids[choice.index] += getattr(choice, "token_ids", [])
    assert texts == [choice.text for choice in whole.choices]
    assert ids == [choice.token_ids for choice in whole.choices]
    with pytest.raises(openai.BadRequestError, match="`echo`"):
        client.completions.create(echo=True, **settings)


def test_a_stream_as_it_is_on_the_wire(url: str) -> None:
    body = {"messages": [QUESTION], "max_tokens": 3, "stream": True}
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=100)
    connection.request("POST", parts.path + "/chat/completions", json.dumps(body))
    reply = connection.getresponse()
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *events, done, rest = reply.read().split(b"\n\n")
    connection.close()
    assert (done, rest) == (b"data: [DONE]", b"")
    assert [event[:6] for event in events] == [b"data: "] * len(events)
    assert json.loads(events[-1][6:])["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_a_stream_that_cannot_begin_has_the_status_of_its_error(client: openai.OpenAI, path: str) -> None:
    ask: Any = client.chat.completions if path == "/chat/completions" else client.completions
    prompt: Any = {"messages": [{"role": "user", "content": "seven " * 900}]} if ask != client.completions else {}
    with pytest.raises(openai.BadRequestError, match="context of 512"):
        ask.create(model="tiny", stream=True, **(prompt or {"prompt": "seven " * 900}))


def test_an_error_midway_is_the_last_event(
    start: Callable[..., Engine], endless: Any, serve: Callable[..., str]
) -> None:
    model, runs = make_model(), itertools.count()

    def broken(*_: Any) -> None:
        if next(runs) >= 4:
            raise MemoryError("no room")

    url = serve(ChatService(start(model), endless, "tiny"))
    model.model.layers[2].register_forward_pre_hook(broken)
    texts: list[str] = []
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:

        def read() -> None:
            for chunk in client.chat.completions.create(model="tiny", messages=[QUESTION], stream=True):
                texts.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  # an error comes

        with pytest.raises(openai.APIError, match="no room"):
            read()
    assert texts


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
        ("POST", "/completions", b"{", 400),
        ("POST", "/completions", b'{"stream": true}', 400),
        ("POST", "/completions", b'{"stream": 1}', 400),
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


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_client_that_hangs_up_on_a_stream_frees_its_slots(
    start: Callable[..., Engine], model: Any, endless: Any, serve: Callable[..., str], path: str
) -> None:
    engine = start(model)
    parts = urlsplit(serve(ChatService(engine, endless, "tiny")))
    body = {"messages": [QUESTION]} if path.startswith("chat") else {"prompt": "What is"}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=100)
    connection.request("POST", f"/v1/{path}", json.dumps(body | {"max_tokens": 450, "n": 8, "stream": True}))
    reply = connection.getresponse()
    assert reply.read1(10).startswith(b"data: ")
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_until(lambda: engine.stats()["live"] + engine.stats()["queued"] == 0)
    assert engine.stats()["tokens"] < 8 * 450


def test_a_body_that_is_too_long_is_refused(engine: Engine, tokenizer: Any, serve: Callable[..., str]) -> None:
    url = serve(ChatService(engine, tokenizer, "tiny"), max_body_bytes=1000)
    status, body = request("POST", url + "/chat/completions", b" " * 1001)
    assert (status, "1000 bytes" in body["error"]["message"]) == (413, True)


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
        with pytest.raises(ConfigError, match=rf"`port` {port} on `host` 127\.0\.0\.1"):
            run(ChatService(engine, tokenizer, "tiny"), "127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_open_address_needs_a_key(engine: Engine, tokenizer: Any, host: str) -> None:
    with pytest.raises(ConfigError, match="`api_key`"):
        run(ChatService(engine, tokenizer, "tiny"), host, 0)
