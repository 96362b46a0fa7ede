"""What good endpoints answer, as values that can be spoilt. Used by `test_answers` and `seeds`."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from tests.llm_proxy.agents import Name, body_of
from tests.llm_proxy.upstreams import Upstream


def good_answer(name: Name, model: str, *, tools: bool, stream: bool) -> Any:
    """What a good endpoint says: an object, or the events of a stream."""
    upstream = Upstream()
    upstream.go_on.set()
    body = {**body_of(name, model=model, n=1), "stream": stream, "logprobs": 1, "stream_options": {"include_usage": 1}}
    if model == "anthropic":
        answer = upstream.anthropic({**body, "tools": tools})
    else:
        dialect: Name = "chat" if name in ("responses", "messages") else name
        asked = body_of(dialect, tools=tools and dialect == "chat")
        extra = {"return_token_ids": True, "return_prompt_token_ids": True, "return_weight_versions": True}
        asked |= {"logprobs": 1, "stream": stream, "stream_options": {"include_usage": True}, **extra}
        answer = (upstream.sglang if model == "sglang" and not stream else upstream.vllm)(asked)
    if isinstance(answer, web.Response):
        assert isinstance(answer.body, bytes)
        return orjson.loads(answer.body)
    return orjson.loads(b"[" + b",".join(_events(answer)) + b"]")


def _events(write: Any) -> list[bytes]:
    """The JSON of the events that a stream is written in."""
    pieces: list[bytes] = next(cell.cell_contents for cell in write.__closure__ if isinstance(cell.cell_contents, list))
    lines = [line for piece in pieces for line in piece.split(b"\n")]
    return [line[6:] for line in lines if line.startswith(b"data: {")]
