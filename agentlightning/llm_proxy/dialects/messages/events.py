"""A streamed chat completion as Anthropic's events. Made by `interface` for every streamed answer.

message_start, (content_block_start, content_block_delta..., content_block_stop)..., message_delta, message_stop
"""

from __future__ import annotations

from typing import Any, cast

from ...backend import Json
from .answers import REASONING_FIELDS, message_id, messages_answer, messages_usage, tool_use_id


class EventWriter:
    """Translates one answer. A `Translator`.

    Blocks follow each other: a new one closes the one before. Arguments of an earlier tool call that come late go out
    under that call's own index, where clients look for them. Chat streams tell the length of the prompt at their end
    only, so `message_start` says 0 and `message_delta` the true numbers.

    Args:
        body: The request.
    """

    def __init__(self, body: Json) -> None:
        self._body = body
        self._id: Any = None
        self._started = False
        self._blocks = 0
        self._open: str | None = None
        """What the open block holds: `text`, `tool_use`, or the field that its thoughts come from."""
        self._calls: dict[int, _Call] = {}

    def feed(self, chunk: Json) -> list[Json]:
        """See `Translator`."""
        events = self._start(chunk)
        for choice in cast("list[Json]", chunk.get("choices") or []):
            if choice.get("index", 0) == 0:
                events += self._delta(choice.get("delta") or {})
        return events

    def end(self, response: Json) -> list[Json]:
        """See `Translator`."""
        whole = messages_answer(self._body, response)
        stop = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
        return [
            *self._start(response),
            *self._close(),
            {"type": "message_delta", "delta": stop, "usage": whole["usage"]},
            {"type": "message_stop"},
        ]

    def _start(self, chunk: Json) -> list[Json]:
        if self._started:
            return []
        self._started, self._id = True, chunk.get("id")
        message: Json = {
            "id": message_id(self._id),
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model") or self._body.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(None),
        }
        return [{"type": "message_start", "message": message}]

    def _delta(self, delta: Json) -> list[Json]:
        events: list[Json] = []
        for name in REASONING_FIELDS:
            if delta.get(name):
                events += self._piece(name, {"type": "thinking_delta", "thinking": delta[name]})
                break
        text = delta.get("content") or delta.get("refusal")
        if text:
            events += self._piece("text", {"type": "text_delta", "text": text})
        for at, call in enumerate(cast("list[Json]", delta.get("tool_calls") or [])):
            events += self._call(call.get("index", at), call)
        return events

    def _piece(self, kind: str, delta: Json) -> list[Json]:
        events: list[Json] = []
        if self._open != kind:
            empty = {"type": "text", "text": ""} if kind == "text" else _no_thoughts()
            events = self._begin(kind, empty)
        return [*events, _block_delta(self._blocks - 1, delta)]

    def _call(self, index: int, fields: Json) -> list[Json]:
        call = self._calls.setdefault(index, _Call())
        call.add(fields)
        events: list[Json] = []
        if call.block is None:
            if not call.name:
                return []
            at = sum(other.block is not None for other in self._calls.values())
            block: Json = {"type": "tool_use", "id": tool_use_id(self._id, at, call.id), "name": call.name, "input": {}}
            events = self._begin("tool_use", block)
            call.block = self._blocks - 1
        arguments, call.waiting = call.waiting, ""
        if arguments:
            events.append(_block_delta(call.block, {"type": "input_json_delta", "partial_json": arguments}))
        return events

    def _begin(self, kind: str, block: Json) -> list[Json]:
        events = self._close()
        self._open = kind
        self._blocks += 1
        return [*events, {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}]

    def _close(self) -> list[Json]:
        if self._open is None:
            return []
        index, kind, self._open = self._blocks - 1, self._open, None
        events: list[Json] = [{"type": "content_block_stop", "index": index}]
        if kind in REASONING_FIELDS:
            events.insert(0, _block_delta(index, {"type": "signature_delta", "signature": kind}))
        return events


class _Call:
    """A tool call as far as it has come."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = ""
        self.waiting = ""
        """Arguments that came before the name, without which a block can't begin."""
        self.block: int | None = None

    def add(self, fields: Json) -> None:
        function: Json = fields.get("function") or {}
        self.id = self.id or fields.get("id")
        self.name = self.name or function.get("name") or ""
        self.waiting += function.get("arguments") or ""


def _no_thoughts() -> Json:
    return {"type": "thinking", "thinking": "", "signature": ""}


def _block_delta(index: int, delta: Json) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": delta}
