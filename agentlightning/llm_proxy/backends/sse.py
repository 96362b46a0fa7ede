"""Reads server-sent events of JSON objects from bytes, as they come from a connection.

Used by `upstream`. It knows nothing of connections, so every way in which a stream can be cut or spoilt is tested
without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson

from agentlightning.types import RequestError

from ..backend import Json

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Longest line, and longest event: a prompt of a million token ids fits in it."""

_END_TYPES = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
}
"""By `type` or `code` of an error that comes within a stream, where no status code tells."""


class UpstreamError(RequestError):
    """An endpoint's own refusal, passed on with its status and its body."""

    def __init__(
        self, message: str, status: int, body: dict[str, object] | None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status, retry_after=retry_after)
        self._body = body

    def to_body(self) -> dict[str, object]:
        """The endpoint's answer where it was a JSON object, else OpenAI's error object around its text."""
        return self._body if self._body is not None else super().to_body()


class EventParser:
    """One stream of server-sent events. Bytes go in however the connection cut them, JSON objects come out.

    Args:
        source: The endpoint, for error messages.
        max_bytes: Longest line and longest event.

    Everything that it raises is a `RequestError` with status 502, or the error object that the stream itself held
    (`UpstreamError`).
    """

    def __init__(self, source: str, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self.done = False
        """Whether `[DONE]` came; nothing after it counts."""
        self._source = source
        self._limit = max_bytes
        self._line: list[bytes] = []  # pieces of the line that is not complete yet
        self._line_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._after_cr = False
        self._begun = False
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Json]:
        """The events that `data` completes. Run it to its end before the next `feed`."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")  # the second half of a line end
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        for line in data.splitlines(keepends=True):
            if line.endswith((b"\n", b"\r")):
                yield from self._take(self._finish_line(line.rstrip(b"\r\n")))
            else:
                self._hold(line)

    def end(self) -> Iterator[Json]:
        """What is left when the connection ends; an event need not be followed by an empty line then.

        Raises:
            RequestError: 502, the answer was not complete.
        """
        try:
            yield from self._take(self._finish_line(b""))
            yield from self._take(b"")
        except UpstreamError:
            raise
        except RequestError as error:
            raise self._broken(f"ended its stream early, within an event ({error.message})") from error
        if not (self.done or self._ended):
            raise self._broken("ended its stream early, before the answer was complete")

    def _hold(self, piece: bytes) -> None:
        self._line.append(piece)
        self._line_size += len(piece)
        if self._line_size > self._limit:
            raise self._broken(f"sent a line of more than {self._limit} bytes")

    def _finish_line(self, piece: bytes) -> bytes:
        if self._line or len(piece) > self._limit:
            self._hold(piece)
            piece = b"".join(self._line)
            self._line, self._line_size = [], 0
        if not self._begun:
            self._begun = True
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        return piece

    def _take(self, line: bytes) -> Iterator[Json]:
        """One whole line: part of an event, or the empty one that ends it."""
        if self.done:
            return
        if line:
            self._field(line)
        elif self._data:
            payload = b"\n".join(self._data)
            self._data, self._data_size = [], 0
            if payload == b"[DONE]":
                self.done = True
            elif payload:
                yield self._read(payload)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return  # comments and the names of events: the object itself says what it is
        self._data.append(value.removeprefix(b" "))
        self._data_size += len(value) + 1
        if self._data_size > self._limit + 1:
            raise self._broken(f"sent an event of more than {self._limit} bytes")

    def _read(self, payload: bytes) -> Json:
        try:
            event: Any = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise self._broken(f"sent invalid JSON in its stream: {error}: {payload[:200]!r}") from error
        if not isinstance(event, dict):
            raise self._broken(f"sent no JSON object in its stream: {payload[:200]!r}")
        found = cast("Json", event)
        if found.get("error") or found.get("type") == "error":
            raise stream_error(self._source, found)
        self._ended = self._ended or ends_answer(found)
        return found

    def _broken(self, what: str) -> RequestError:
        return RequestError(f"the backend at {self._source} {what}", status=502)


def ends_answer(event: Json) -> bool:
    """Whether an event of `chat`, `completions`, `responses` or `messages` says that an answer is complete."""
    kind = event.get("type")
    if isinstance(kind, str) and kind in _END_TYPES:
        return True
    choices = event.get("choices")
    if not isinstance(choices, list):
        return False
    listed = cast("list[Any]", choices)
    return any(isinstance(choice, dict) and cast("Json", choice).get("finish_reason") for choice in listed)


def stream_error(source: str, event: Json) -> UpstreamError:
    """The error that an event stands for, with the status that it names, else 502."""
    error: Any = event.get("error") or event
    if not isinstance(error, dict):
        return UpstreamError(f"the backend at {source} failed midway: {error!r:.500}", 502, None)
    found = cast("dict[str, Any]", error)
    code = found.get("code")
    known = [_STATUS[name] for name in (code, found.get("type")) if isinstance(name, str) and name in _STATUS]
    status = code if type(code) is int and 400 <= code < 600 else next(iter(known), 502)
    text = f"the backend at {source} failed midway: {found.get('message') or found!r:.500}"
    return UpstreamError(text, status, event if "error" in event else None)
