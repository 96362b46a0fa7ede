"""Anthropic's events read: the whole Message that they make, and the chunks of a chat completion that they stand for.

Called by `backends/anthropic.py`.
"""

from __future__ import annotations

import time
from typing import Any

from agentlightning.types import RequestError

from ...backend import Json
from .answers import REASONING_FIELDS, chat_usage, finish_reason, read_arguments

_PIECES = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("partial_json", "input"),
}
"""Deltas that hold a piece of a string: its name in the delta, and in the block."""


class MessageReader:
    """Puts the Message of one stream together.

    Raises (from `feed`):
        RequestError: 502, an event is not of Anthropic's form.
    """

    def __init__(self) -> None:
        self._message: Json | None = None
        self._pieces: dict[int, dict[str, list[str]]] = {}
        """Of blocks that are not complete; joined once, which is linear in their length."""
        self._stopped = False

    def feed(self, event: Json) -> None:
        """Take an event. Kinds that are not known change nothing, as Anthropic asks of its clients."""
        try:
            self._take(event)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RequestError(f"the backend sent a malformed event {event!r:.200}: {error!r}", status=502) from error

    @property
    def message(self) -> Json:
        """The whole Message, at the end of the stream.

        Raises:
            RequestError: 502, the stream has ended before.
        """
        if self._message is None or not self._stopped:
            raise RequestError("the backend ended its stream early, before `message_stop`", status=502)
        return self._message

    def _take(self, event: Json) -> None:
        kind = event.get("type")
        if kind == "message_start":
            message: Json = event["message"]
            self._message = {**message, "content": [], "usage": {**(message.get("usage") or {})}}
        elif kind in ("content_block_start", "content_block_delta", "content_block_stop"):
            self._take_block(kind, event["index"], event)
        elif kind == "message_delta":
            message = self._known()
            message |= event["delta"]
            counts: Json = event.get("usage") or {}
            message["usage"] |= {name: count for name, count in counts.items() if count is not None}
        elif kind == "message_stop":
            for index, block in enumerate(self._known()["content"]):
                self._complete(index, block)
            self._stopped = True

    def _take_block(self, kind: str, index: int, event: Json) -> None:
        blocks: list[Json] = self._known()["content"]
        if kind == "content_block_start":
            if index != len(blocks):
                raise IndexError(f"block {index} begins after {len(blocks)} blocks")
            blocks.append({**event["content_block"]})
        elif kind == "content_block_delta":
            self._take_delta(index, blocks[index], event["delta"])
        else:
            self._complete(index, blocks[index])

    def _take_delta(self, index: int, block: Json, delta: Json) -> None:
        kind = delta["type"]
        if kind in _PIECES:
            given, name = _PIECES[kind]
            if not isinstance(delta[given], str):
                raise TypeError(f"`{given}` must be a string")
            self._pieces.setdefault(index, {}).setdefault(name, []).append(delta[given])
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]

    def _complete(self, index: int, block: Json) -> None:
        for name, pieces in self._pieces.pop(index, {}).items():
            whole = "".join(pieces)
            block[name] = read_arguments(whole) if name == "input" else block.get(name, "") + whole

    def _known(self) -> Json:
        if self._message is None:
            raise KeyError("message_start")
        return self._message


class ChunkWriter:
    """Writes the chunks of one answer; gets each event after a `MessageReader` has found it well-formed.

    Args:
        with_usage: Whether a last chunk tells the numbers of tokens, as `stream_options.include_usage` asks for.
    """

    def __init__(self, *, with_usage: bool) -> None:
        self.created = int(time.time())
        self._with_usage = with_usage
        self._about: Json = {}
        self._calls: dict[int, int] = {}
        """Number of a tool call, by the index of its block."""

    def feed(self, event: Json, reader: MessageReader) -> list[Json]:
        """The chunks that an event stands for."""
        match event.get("type"):
            case "message_start":
                self._about = {name: event["message"].get(name) for name in ("id", "model")}
                return [self._chunk({"role": "assistant", "content": ""})]
            case "content_block_start":
                return [self._chunk(delta) for delta in self._begin(event["index"], event["content_block"])]
            case "content_block_delta":
                return [self._chunk(delta) for delta in self._delta(event["index"], event["delta"])]
            case "message_delta":
                return [self._chunk({}, event["delta"])]
            case "message_stop" if self._with_usage:
                return [{**self._base(), "choices": [], "usage": chat_usage(reader.message.get("usage"))}]
            case _:
                return []

    def _begin(self, index: int, block: Json) -> list[Json]:
        if block.get("type") == "tool_use":
            self._calls[index] = len(self._calls)
            function = {"name": block.get("name"), "arguments": ""}
            return [self._call(index, {"id": block.get("id"), "type": "function", "function": function})]
        return [{"content": block["text"]}] if block.get("text") else []

    def _delta(self, index: int, delta: Json) -> list[Json]:
        match delta["type"]:
            case "text_delta":
                return [{"content": delta["text"]}]
            case "thinking_delta":
                return [{REASONING_FIELDS[0]: delta["thinking"]}]
            case "input_json_delta" if index in self._calls:
                return [self._call(index, {"function": {"arguments": delta["partial_json"]}})]
            case _:
                return []

    def _call(self, index: int, fields: Json) -> Json:
        return {"tool_calls": [{"index": self._calls[index], **fields}]}

    def _base(self) -> Json:
        return {"object": "chat.completion.chunk", "created": self.created, **self._about}

    def _chunk(self, delta: Json, end: Json | None = None) -> Json:
        choice: Json = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        if end is not None:
            choice["finish_reason"] = finish_reason(end.get("stop_reason"))
            stop: Any = end.get("stop_sequence")
            if stop is not None:
                choice["stop_reason"] = stop
        return {**self._base(), "choices": [choice]}
