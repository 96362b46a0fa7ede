"""A real chat endpoint over HTTP that answers, refuses and fails as a test says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import openai
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentlightning.utils.server_thread import ThreadedServer

Body = dict[str, Any]
Answer = Callable[[Body], Any]
"""Body of a request -> what it says: a text, a message, a `Response`, or an awaitable of one of them."""


def completion(said: Any, *, finish: str = "stop", usage: bool = True) -> JSONResponse:
    """A chat completion with a text or a whole message: three input tokens, five output tokens."""
    message = said if isinstance(said, dict) else {"content": said}
    body: Body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    return JSONResponse(body)


def refusal(status: int, message: str = "no", *, headers: dict[str, str] | None = None, **fields: Any) -> JSONResponse:
    """An error as OpenAI's."""
    return JSONResponse({"error": {"message": message, **fields}}, status, headers)


class Endpoint:
    """Keeps what it is asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[Body] = []
        self.keys: set[str] = set()
        self.running = self.most = 0
        self._over = asyncio.Event()
        self._server = ThreadedServer("127.0.0.1", None, self._app, name="endpoint")

    def _app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization", "").removeprefix("Bearer "))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            answer = self.answer(body)
            if asyncio.iscoroutine(answer):
                answer = await answer
        finally:
            self.running -= 1
        return answer if isinstance(answer, Response) else completion(answer)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        self._server.call_in_loop(self._over.set)
        await self._server.stop()

    async def silence(self) -> Response:
        """Nothing, for an answer, until the endpoint is stopped."""
        await self._over.wait()
        return refusal(503)

    @property
    def calls(self) -> Counter[str]:
        """How often each model was asked."""
        return Counter(body["model"] for body in self.bodies)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/v1"

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url, api_key="sk-secret")

    def sync_client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="sk-secret")


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Endpoint]:
    """An endpoint that runs."""
    endpoint = Endpoint(answer)
    await endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.stop()


@contextmanager
def served(answer: Answer) -> Iterator[Endpoint]:
    """The same, for code without an event loop."""
    endpoint = Endpoint(answer)
    asyncio.run(endpoint.start())
    try:
        yield endpoint
    finally:
        asyncio.run(endpoint.stop())


def asked(body: Body) -> str:
    """The text of a request."""
    return "\n".join(message["content"] for message in body["messages"])


def in_turn(*answers: Any) -> Answer:
    """One answer after the other; the last one again and again. A function is called with the body."""
    left = list(answers)

    def answer(body: Body) -> Any:
        now = left.pop(0) if len(left) > 1 else left[0]
        return now(body) if callable(now) and not isinstance(now, Response) else now

    return answer
