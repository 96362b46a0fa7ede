"""An agent's side of the Messages interface: the stock `anthropic` client on a small app over a scripted backend."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import anthropic
import httpx2
import orjson
from aiohttp import web

from agentlightning.llm_proxy.dialects.messages import MESSAGES
from agentlightning.types import ChatReply, RequestError

Json = dict[str, Any]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}


def completion(message: Json, finish: str = "stop", **more: Any) -> Json:
    """A chat completion with one choice. `more` goes into the choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def pieces(text: str, cuts: list[int]) -> list[str]:
    """`text`, cut into pieces of the given lengths; the last is the rest."""
    found: list[str] = []
    for size in cuts:
        found.append(text[:size])
        text = text[size:]
    return [*found, text]


def chunks(response: Json, cuts: list[int]) -> list[Json]:
    """A chat completion as the chunks of a stream, in vLLM's manner."""
    about = {name: response[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = response["choices"][0]
    message = choice["message"]
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning", "reasoning_content", "content"):
        deltas += [{name: piece} for piece in pieces(message.get(name) or "", cuts)]
    for index, call in enumerate(message.get("tool_calls") or []):
        first = {"index": index, "id": call["id"], "type": "function", "function": {"name": call["function"]["name"]}}
        deltas.append({"tool_calls": [first]})
        for piece in pieces(call["function"]["arguments"], cuts):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    made = [{**about, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    made.append({**about, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    return [*made, {**about, "choices": [], "usage": response["usage"]}]


def events(body: Json, response: Json, cuts: list[int]) -> list[Json]:
    """The Messages events of a streamed chat completion."""
    translator = MESSAGES.translator(body)
    found = [event for chunk in chunks(response, cuts) for event in translator.feed(chunk)]
    assert not any(map(MESSAGES.is_end, found))
    return [*found, *translator.end(response)]


class InProcess:
    """The stock client, wired to the interface without a connection. `seen` are the bodies that it sent."""

    def __init__(self, response: Json, cuts: list[int]) -> None:
        self.response, self.cuts = response, cuts
        self.seen: list[Json] = []
        transport = httpx2.MockTransport(self._handle)
        self.client = anthropic.Anthropic(
            base_url="http://gateway", api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
        )

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        body = orjson.loads(request.content)
        self.seen.append(body)
        if body.get("stream"):
            data = b"".join(map(MESSAGES.frame, events(body, self.response, self.cuts)))
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)
        return httpx2.Response(200, json=MESSAGES.from_chat(body, self.response))


class Answering:
    """Answers chat completions of the app below: by a script, or by asking a backend."""

    def __init__(self) -> None:
        self.asked: list[Json] = []
        self.response: Json = completion({"content": "Hello there."})
        self.error: RequestError | None = None
        self.error_after: int | None = None
        self.call: Callable[[Json], Awaitable[ChatReply]] = self._call
        self.stream: Callable[[Json], AsyncGenerator[Json | ChatReply, None]] = self._stream
        self.url = ""

    async def _call(self, body: Json) -> ChatReply:
        if self.error is not None:
            raise self.error
        return ChatReply(self.response, [])

    async def _stream(self, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        for at, chunk in enumerate(chunks(self.response, [3, 4])):
            if self.error is not None and at == (self.error_after or 0):
                raise self.error
            yield chunk
        yield ChatReply(self.response, [])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
            MESSAGES.check(body)
            self.asked.append(chat := MESSAGES.to_chat(body))
            if body.get("stream"):
                return await self._send(request, body, chat)
            reply = await self.call(chat)
        except RequestError as error:
            return web.json_response(MESSAGES.error(error), status=error.status)
        return web.json_response(MESSAGES.from_chat(body, reply.response))

    async def _send(self, request: web.Request, body: Json, chat: Json) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        translator = MESSAGES.translator(body)
        async with aclosing(self.stream(chat)) as parts:
            try:
                async for part in parts:
                    last = isinstance(part, ChatReply)
                    found = translator.end(part.response) if last else translator.feed(cast("Json", part))
                    if not answer.prepared:
                        await answer.prepare(request)
                    await answer.write(b"".join(map(MESSAGES.frame, found)))
            except RequestError as error:
                if not answer.prepared:
                    raise
                await answer.write(MESSAGES.frame(MESSAGES.error(error)))
        await answer.write_eof(MESSAGES.tail)
        return answer


@asynccontextmanager
async def serving(path: str, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncGenerator[str]:
    """A server on a free port; gives its URL."""
    app = web.Application(client_max_size=2**24)
    app.router.add_post(path, handle)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await web.SockSite(runner, sock).start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        await runner.cleanup()
