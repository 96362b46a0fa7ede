"""Many small calls in one HTTP request, and their answers in its body. Used by `client.batching` and `server.api`.

A frame is a line and a body: `POST /v1/agl/rollouts/ro-1 <idempotency key or -> <length>\\n<body>` there and
`<status> <length>\\n<body>` back, in the same order. The bodies are what the calls would have had alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

CONTENT_TYPE = "application/x-agentlightning-batch"
PATH = "/v1/agl/batch"
NO_KEY = "-"


class Frame(NamedTuple):
    method: str
    path: str
    key: str | None
    body: bytes


def write_calls(frames: Iterable[Frame]) -> bytes:
    parts: list[bytes] = []
    for method, path, key, body in frames:
        parts += (f"{method} {path} {key or NO_KEY} {len(body)}\n".encode(), body)
    return b"".join(parts)


def read_calls(data: bytes) -> Iterator[Frame]:
    """Raises `ValueError` where `data` is not what `write_calls` makes."""
    for (method, path, key, _), body in _frames(data, 4):
        yield Frame(method, path, None if key == NO_KEY else key, body)


def write_answers(answers: Iterable[tuple[int, bytes]]) -> bytes:
    parts: list[bytes] = []
    for status, body in answers:
        parts += (b"%d %d\n" % (status, len(body)), body)
    return b"".join(parts)


def read_answers(data: bytes) -> list[tuple[int, bytes]]:
    """Raises `ValueError` where `data` is not what `write_answers` makes."""
    return [(int(status), body) for (status, _), body in _frames(data, 2)]


def _frames(data: bytes, words: int) -> Iterator[tuple[list[str], bytes]]:
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        head = data[at:end].decode().split(" ")
        if end < 0 or len(head) != words or not head[-1].isdigit() or end + 1 + int(head[-1]) > len(data):
            raise ValueError(f"a batch has a malformed frame at byte {at}: {data[at : at + 80]!r}")
        at = end + 1 + int(head[-1])
        yield head, data[end + 1 : at]
