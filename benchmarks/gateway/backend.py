"""A stand-in for a vLLM server: answers that are rendered beforehand, so that it costs next to nothing beside a proxy.

Started by `compare` in a process of its own. Gives ids and log-probs to those who ask for them, streams one token
every 10 ms to those who ask for a stream, and waits as long as the model's shape says.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import httptools
import orjson
import shapes
import uvloop

CHUNK_S = 0.01
"""Between two chunks of a stream."""

_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_NO_PATH = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def render() -> dict[tuple[str, bool, bool], list[bytes]]:
    """All answers, by (model, whether tokens are asked for, whether a stream is): what is written one by one."""
    found: dict[tuple[str, bool, bool], list[bytes]] = {}
    for model in shapes.SHAPES:
        for tokens in (False, True):
            whole = shapes.answer(model, tokens=tokens)
            found[model, tokens, False] = [_WHOLE % (len(whole), whole)]
            parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in shapes.chunks(model, tokens=tokens)]
            found[model, tokens, True] = [_STREAM + parts[0], *parts[1:], b"0\r\n\r\n"]
    return found


class Connection(asyncio.Protocol):
    """One client's connection; it asks one thing at a time."""

    def __init__(self, answers: dict[tuple[str, bool, bool], list[bytes]]) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._path = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url, []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._path != b"/v1/chat/completions":
            self._transport.write(_NO_PATH)
            return
        body = orjson.loads(b"".join(self._body))
        tokens, stream = bool(body.get("return_token_ids")), bool(body.get("stream"))
        parts = self._answers[body["model"], tokens, stream]
        self._loop.call_later(shapes.SHAPES[body["model"]].delay_s, self._send, parts, 0)

    def _send(self, parts: list[bytes], at: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(parts[at])
        if at + 1 < len(parts):
            # What ends the stream comes with its last token, as from vLLM.
            self._loop.call_later(CHUNK_S if at + 4 < len(parts) else 0.0, self._send, parts, at + 1)


async def serve(port: int) -> None:
    answers = render()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(answers), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
