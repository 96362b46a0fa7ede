"""Good bytes for every parser, from which fuzzers make bad ones."""

from __future__ import annotations

import json

import numpy as np

from agentlightning.types import TokenCall
from tests.llm_proxy.agents import NAMES

from .answers import good_answer
from .conversations import conversation
from .exports import export, protobuf


def _sse(events: list[object]) -> bytes:
    return (
        b"\x13" + b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    )


def _written(value: object) -> bytes:
    return json.dumps(value).encode()


CHAT_STREAMS = [_sse(good_answer("chat", "vllm", tools=tools, stream=True)) for tools in (False, True)]
COMPLETION_STREAMS = [_sse(good_answer("completions", "vllm", tools=False, stream=True))]
MESSAGE_STREAMS = [_sse(good_answer("messages", "anthropic", tools=tools, stream=True)) for tools in (False, True)]
ANSWERS = [
    _written(good_answer("chat", model, tools=tools, stream=False))
    for model in ("vllm", "anthropic")
    for tools in (False, True)
]
REQUESTS = [_written(conversation(name)) for name in NAMES]
OTLP_JSON = [_written(export("ro-1", "at-1"))]
OTLP_PROTOBUF = [protobuf(export("ro-1", "at-1"))]
TOKEN_CALLS = [
    TokenCall("m", np.arange(5, dtype=np.int32), np.arange(2, dtype=np.int32), logprobs, "stop").to_bytes()
    for logprobs in (None, np.zeros(2, np.float32))
]
