"""A gateway over an in-memory store, a backend in this process, and a real HTTP endpoint that answers as vLLM."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import orjson
import pytest
from aiohttp import web

from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy.backend import Dialect
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, ChatReply, TokenCall

if TYPE_CHECKING:
    from agentlightning.inference.service import ChatService

QUESTION = [{"role": "user", "content": "two and two"}]


def choice(index: int, text: str, finish: str = "stop") -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": None,
    }


def completion(model: str, texts: list[str]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{'-'.join(texts)}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice(index, text) for index, text in enumerate(texts)],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2 * len(texts), "total_tokens": 3 + 2 * len(texts)},
    }


class LocalBackend:
    """Answers within this process and keeps the bodies it got. `hold` makes calls wait, `error` makes them fail.

    A stream waits for `hold` after its first chunk, and fails there.
    """

    def __init__(self) -> None:
        self.speaks: frozenset[Dialect] = frozenset({"chat"})
        self.bodies: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.with_tokens = True
        self.hold: asyncio.Event | None = None
        self.waiting = 0
        self.cancelled = 0

    async def call(self, dialect: Dialect, body: dict[str, Any]) -> ChatReply:
        self.bodies.append(body)
        await self._hold_or_fail()
        return self._reply(body)

    async def stream(self, dialect: Dialect, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any] | ChatReply, None]:
        self.bodies.append(body)
        reply = self._reply(body)
        about = {name: reply.response[name] for name in ("id", "created", "model")}
        for at, piece in enumerate(("ans", "wer", " 0")):
            delta = {"role": "assistant", "content": piece} if at == 0 else {"content": piece}
            yield {**about, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
            if at == 0:
                await self._hold_or_fail()
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield {**about, "object": "chat.completion.chunk", "choices": [last]}
        yield reply

    async def _hold_or_fail(self) -> None:
        if self.hold is not None:
            await self._wait(self.hold)
        if self.error is not None:
            raise self.error

    def _reply(self, body: dict[str, Any]) -> ChatReply:
        texts = [f"answer {index}" for index in range(body.get("n") or 1)]
        calls = [self._call(body, index) for index in range(len(texts))] if self.with_tokens else []
        return ChatReply(completion(body["model"], texts), calls)

    async def _wait(self, hold: asyncio.Event) -> None:
        self.waiting += 1
        try:
            await hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def _call(self, body: dict[str, Any], index: int) -> TokenCall:
        return TokenCall(
            model=body["model"],
            prompt_ids=np.array([1, 2, 3], np.int32),
            response_ids=np.array([10 + index, 2], np.int32),
            logprobs=np.array([-0.5, -0.25], np.float32),
            finish_reason="stop",
            weights_version=7,
            temperature=body.get("temperature", 1.0),
        )


class Upstream:
    """An OpenAI-compatible HTTP endpoint in vLLM's manner. `answer` replaces what it answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any]], web.Response] = self.like_vllm
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return self.answer(body)

    def like_vllm(self, body: dict[str, Any]) -> web.Response:
        texts = [f"text {index}" for index in range(body.get("n") or 1)]
        answer = completion(body["model"], texts)
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = [5, 6, 7]
            for index, one in enumerate(answer["choices"]):
                one["token_ids"] = [20 + index, 2]
        if body.get("logprobs"):
            for one in answer["choices"]:
                one["logprobs"] = {"content": [{"token": "t", "logprob": p, "bytes": None} for p in (-1.5, -0.25)]}
        return web.json_response(answer)

    def plain(self, body: dict[str, Any]) -> web.Response:
        return web.json_response(completion(body["model"], ["plain"]))


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await web.SockSite(runner, sock).start()
        server.url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
        yield server
        await runner.cleanup()


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    home = InMemoryLightningStore()
    yield home
    await home.close()


@pytest.fixture
def backend() -> LocalBackend:
    return LocalBackend()


@pytest.fixture
async def proxy(store: InMemoryLightningStore, backend: LocalBackend) -> AsyncIterator[LLMProxy]:
    gateway = LLMProxy(store=store)
    gateway.set_backend("tiny", backend)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def rollout(store: InMemoryLightningStore) -> AttemptedRollout:
    return await store.start_rollout("a task", mode="train", metadata={"seed": 11})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatService]:
    """The native engine with a tiny model."""
    from agentlightning.inference.engine import Engine  # torch: only where it is used
    from agentlightning.inference.loading import load_model
    from agentlightning.inference.service import ChatService
    from agentlightning.learner.tiny_model import tiny_model

    path = tmp_path_factory.mktemp("native") / "model"
    tiny_model(path, ["what is 3 plus 4 ?", "the answer is 7 ."], hidden_size=32, num_layers=2)
    loaded = load_model(str(path))
    engine = Engine(loaded.model, loaded.tokenizer, max_slots=8)
    engine.start()
    yield ChatService(engine, loaded.tokenizer, "tiny")
    engine.stop()


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    while not happened():  # noqa: ASYNC110  # it sets no event
        await asyncio.sleep(0.01)


def client_for(proxy: LLMProxy, rollout: AttemptedRollout | None = None) -> openai.AsyncOpenAI:
    """The stock client on the attempt's own URL; repeats nothing, so that tests see every answer."""
    ids = (rollout.rollout_id, rollout.attempt.attempt_id) if rollout else (None, None)
    resource = proxy.as_resource(*ids)
    return openai.AsyncOpenAI(base_url=resource.endpoint, api_key=resource.api_key, max_retries=0)
