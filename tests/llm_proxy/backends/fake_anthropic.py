"""An endpoint that answers by the contract of Anthropic's API reference: what it demands, refuses and streams."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]

KEY = "sk-ant-test"
USE = {"type": "tool_use", "id": "toolu_01A", "name": "weather", "input": {"city": "Zürich", "days": 2}}
_FIELDS = frozenset(
    {
        *("model", "messages", "max_tokens", "system", "metadata", "stop_sequences", "stream", "temperature", "top_p"),
        *("top_k", "tools", "tool_choice", "thinking", "output_config", "service_tier"),
    }
)
_REQUIRED = ("model", "messages", "max_tokens")
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})


def message(*content: Json, stop_reason: str = "end_turn", stop_sequence: str | None = None) -> Json:
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-20260101",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 3,
            "output_tokens": 15,
        },
    }


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def error(kind: str, told: str) -> Json:
    return {"type": "error", "error": {"type": kind, "message": told}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


def events(whole: Json) -> list[Json]:
    """A message as the documented events, with a `ping` where the documentation has one."""
    start = {**whole, "content": [], "stop_reason": None, "stop_sequence": None}
    start["usage"] = whole["usage"] | {"output_tokens": 1}
    found: list[Json] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(whole["content"]):
        at = {"index": index}
        empty = {"text": {"text": ""}, "tool_use": {"input": {}}, "thinking": {"thinking": "", "signature": ""}}
        found.append({"type": "content_block_start", **at, "content_block": block | empty[block["type"]]})
        found += [{"type": "ping"}] if index == 0 else []
        found += [{"type": "content_block_delta", **at, "delta": delta} for delta in _deltas(block)]
        found.append({"type": "content_block_stop", **at})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    usage = {"output_tokens": whole["usage"]["output_tokens"]}
    return [*found, {"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def _deltas(block: Json) -> list[Json]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
    if block["type"] == "tool_use":
        json = orjson.dumps(block["input"]).decode()
        return [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *_pieces(json)]]
    thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
    return [*thoughts, {"type": "signature_delta", "signature": block["signature"]}]


def _pieces(value: str) -> list[str]:
    return [value[at : at + 4] for at in range(0, len(value), 4)]


class FakeAnthropic:
    """`POST /v1/messages`. `answer` is what it says; `refuse` replaces it by an error."""

    def __init__(self) -> None:
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.answer = message(text("Hello!"))
        self.refuse: tuple[int, Json | bytes] | None = None
        self.events: list[Json | bytes] | None = None
        """Instead of those of `answer`; bytes are sent as they are."""
        self.tear = False
        """Cut the connection where the stream would end."""
        self.gone = asyncio.Event()
        """Set when a client went away from a stream that holds."""
        self.hold = False
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        status, told = self.refuse or self._check(request, body)
        if status != 200:
            data = told if isinstance(told, bytes) else orjson.dumps(told)
            return web.Response(body=data, status=status, content_type="application/json")
        return await self._send(request) if body.get("stream") else web.json_response(self.answer)

    def _check(self, request: web.Request, body: Json) -> tuple[int, Json]:
        shown = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if shown != KEY:
            return 401, error("authentication_error", "invalid x-api-key")
        problem = _problem(request.headers.get("anthropic-version"), body)
        return (400, error("invalid_request_error", problem)) if problem else (200, {})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        for event in events(self.answer) if self.events is None else self.events:
            data = event
            if isinstance(event, dict):
                data = f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n"
            await answer.write(data)  # type: ignore[arg-type]
        if self.hold:
            await self._until_gone(request)
        if self.tear and request.transport is not None:
            request.transport.abort()
        return answer

    async def _until_gone(self, request: web.Request) -> None:
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.gone.set()


def _problem(version: str | None, body: Json) -> str | None:
    """What the API finds wrong with a request."""
    if version not in ("2023-06-01", "2026-10-21"):
        return "anthropic-version: header is required"
    if version == "2026-10-21" and _SAMPLING & body.keys():
        return "temperature, top_p and top_k: removed in this version"
    for name in _REQUIRED:
        if name not in body:
            return f"{name}: Field required"
    for name in body:
        if name not in _FIELDS:
            return f"{name}: Extra inputs are not permitted"
    if "tool_choice" in body and "tools" not in body:
        return "tool_choice: may only be specified while providing tools"
    asked: set[str] = set()
    for at, turn in enumerate(body["messages"]):
        if turn["role"] != ("user", "assistant")[at % 2]:
            return f'messages.{at}: roles must alternate between "user" and "assistant"'
        blocks = [text(turn["content"])] if isinstance(turn["content"], str) else turn["content"]
        if not blocks or any(block.get("text") == "" for block in blocks):
            return f"messages.{at}: text content blocks must be non-empty"
        if {block.get("tool_use_id") for block in blocks if block["type"] == "tool_result"} != asked:
            return f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after"
        asked = {block["id"] for block in blocks if block["type"] == "tool_use"}
    return None
