"""A server of the Responses API over a scripted chat backend, and chat answers to script: for `test_responses*`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import orjson
import uvicorn
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agentlightning.llm_proxy.dialects.responses import RESPONSES
from agentlightning.types import RequestError

Json = dict[str, Any]


class Peer:
    """Answers as the gateway does, from `script`: chat completions, each with the chunks that it is streamed in."""

    def __init__(self) -> None:
        self.script: list[tuple[Json, list[Json]]] = []
        self.asked: list[Json] = []
        """The chat requests that the calls became."""
        self.torn: RequestError | None = None
        """Ends a stream instead of the events that belong there."""

    async def answer(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        try:
            RESPONSES.check(body)
            self.asked.append(RESPONSES.to_chat(body))
        except RequestError as error:
            return Response(orjson.dumps(RESPONSES.error(error)), error.status, media_type="application/json")
        completion, chunks = self.script.pop(0)
        if body.get("stream"):
            return StreamingResponse(self._stream(body, completion, chunks), media_type="text/event-stream")
        return Response(orjson.dumps(RESPONSES.from_chat(body, completion)), media_type="application/json")

    def _stream(self, body: Json, completion: Json, chunks: list[Json]) -> Iterator[bytes]:
        translator = RESPONSES.translator(body)
        for chunk in chunks:
            for event in translator.feed(chunk):
                assert not RESPONSES.is_end(event)
                yield RESPONSES.frame(event)
        if self.torn is not None:
            yield RESPONSES.frame(RESPONSES.error(self.torn))
            return
        events = translator.end(completion)
        assert [RESPONSES.is_end(event) for event in events] == [False] * (len(events) - 1) + [True]
        yield from map(RESPONSES.frame, events)
        yield RESPONSES.tail


@contextmanager
def serving(peer: Peer) -> Iterator[str]:
    """The base URL of a running server."""
    app = Starlette(routes=[Route("/v1/responses", peer.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def completion(message: Json, finish: str = "stop", key: str = "1a2b", logprobs: Any = None) -> Json:
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **message},
                "finish_reason": finish,
                "logprobs": {"content": logprobs} if logprobs else None,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


def call(identity: str, name: str = "look", arguments: str = "{}") -> Json:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def chunk(delta: Json, key: str = "1a2b", finish: str | None = None, logprobs: Any = None) -> Json:
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "delta": delta,
                "finish_reason": finish,
                "logprobs": {"content": logprobs} if logprobs else None,
            }
        ],
    }


def deltas(message: Json, size: int) -> list[Json]:
    """A message in pieces of `size` characters, in the order in which models say them."""
    found: list[Json] = [{"role": "assistant", "content": ""}]
    for field in ("reasoning", "reasoning_content", "content", "refusal"):
        found += [{field: piece} for piece in _pieces(message.get(field) or "", size)]
    for index, one in enumerate(message.get("tool_calls") or []):
        function = one["function"]
        found.append({"tool_calls": [{**one, "index": index, "function": {**function, "arguments": ""}}]})
        found += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in _pieces(function["arguments"], size)
        ]
    return found


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def as_sent_again(message: Json) -> Json:
    """The message as the next request must say it. Nothing but reasoning or calls is no content at all."""
    calls = message.get("tool_calls")
    found: Json = {"role": "assistant", "content": message.get("content") or (None if calls else "")}
    if reasoning := message.get("reasoning") or message.get("reasoning_content"):
        found |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return found | {name: message[name] for name in ("refusal", "tool_calls") if message.get(name)}


_text = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["é" * 5, "\n", "a b\r\nc\u2028d", '{"a": 1}']))


@st.composite
def messages(draw: st.DrawFn, tag: str = "") -> Json:
    """An assistant's message as backends give it. `tag` keeps the ids of calls apart from another message's."""
    names = draw(st.lists(st.sampled_from(["look", "add", "weather_in"]), max_size=3))
    calls = [call(f"call_{tag}{at}", name, draw(_text) or "{}") for at, name in enumerate(names)]
    found: Json = {"content": draw(_text)}
    if reasoning := draw(_text):
        found[draw(st.sampled_from(["reasoning", "reasoning_content"]))] = reasoning
    if draw(st.integers(0, 5)) == 0:
        found["refusal"] = draw(_text) or "no"
    return found | ({"tool_calls": calls} if calls else {})
