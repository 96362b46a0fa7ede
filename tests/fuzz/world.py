"""A gateway that runs beside the tests, with each kind of backend, and an endpoint that says what it is told.

Nothing here may fail with an exception that nobody expected: such are logged, and `World.internal` holds them.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import orjson
from aiohttp import web

from agentlightning.inference.engine import Engine
from agentlightning.inference.service import ChatService
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from tests.inference.conftest import make_model, make_tokenizer
from tests.llm_proxy.backends.endpoint import Endpoint, refusal, serving
from tests.llm_proxy.upstreams import Upstream

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
"""Of each kind; `make fuzz` takes more."""
KINDS = {"native": "native", "vllm": "hosted_vllm", "sglang": "sglang", "anthropic": "anthropic"}
"""Model names of the gateway, and how their endpoints are reached."""


class World:
    """The gateway of `proxy`. `endpoint` answers for all models but `native`."""

    def __init__(self, proxy: LLMProxy, endpoint: Endpoint, path: str) -> None:
        self.proxy = proxy
        self.endpoint = endpoint
        self.path = path
        """In front of `/v1`: of an attempt whose answers are at most 4 tokens long."""
        self.internal: list[str] = []
        """Exceptions that were logged."""

    def post(self, path: str, data: bytes) -> tuple[int, bytes]:
        """Send a body. An answer that takes a minute is an error."""
        self.internal.clear()
        # A new connection each time: the gateway closes those that are idle while an example is being made.
        with closing(http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=60)) as connection:
            connection.request("POST", self.path + path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def good(self) -> None:
        """Let the endpoint answer well, in the manner of the interface that it is asked in."""
        upstream = Upstream()
        upstream.go_on.set()

        def answer(body: dict[str, Any]) -> Any:
            try:
                return (upstream.anthropic if self.endpoint.paths[-1].endswith("/messages") else upstream.vllm)(body)
            except (TypeError, AttributeError, KeyError) as error:
                return refusal(f"not understood: {error!r}")

        self.endpoint.answer = answer

    def say(self, data: bytes, *, stream: bool) -> None:
        """Let the endpoint answer with these bytes."""
        kind = "text/event-stream" if stream else "application/json"
        self.endpoint.answer = lambda _: web.Response(body=data, content_type=kind)


class _Exceptions(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(logging.Formatter().format(record))


@contextmanager
def running() -> Iterator[World]:
    """Everything, in threads of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    engine = Engine(make_model(max_position_embeddings=2048), make_tokenizer(), max_slots=16)
    engine.start()
    store, endpoints = InMemoryLightningStore(), serving()
    endpoint = asyncio.run_coroutine_threadsafe(endpoints.__aenter__(), loop).result(60)
    proxy = LLMProxy(store=store, num_retries=0)
    proxy.sampling_parameters = {"train": {"max_tokens": 4}}
    proxy.set_backend("native", ChatService(engine, make_tokenizer(), "native"))
    proxy.update_model_list(
        [
            {"model_name": name, "litellm_params": {"model": f"{kind}/m", "api_base": endpoint.url, "api_key": "x"}}
            for name, kind in KINDS.items()
            if name != "native"
        ]
    )
    asyncio.run(proxy.start())
    rollout = asyncio.run(store.start_rollout("a task", mode="train"))
    world = World(proxy, endpoint, f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}")
    handler = _Exceptions(world.internal)
    loggers = [logging.getLogger(name) for name in ("agentlightning", "uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield world
    for logger in loggers:
        logger.removeHandler(handler)
    asyncio.run(proxy.stop())
    asyncio.run_coroutine_threadsafe(endpoints.__aexit__(None, None, None), loop).result(60)
    engine.stop()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def check_error(interface: str, body: bytes) -> None:
    """An error has the form of its interface."""
    found = orjson.loads(body)
    assert isinstance(found["error"], dict)
    assert isinstance(found["error"]["message"], str)
    if interface == "messages":
        assert found["type"] == "error"
