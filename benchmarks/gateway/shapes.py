"""What the benchmark's calls look like: requests of a given length, and the answers of a vLLM server to them.

Used by `backend`, which sends the answers, and `load`, which sends the requests. Text has about four characters a
token, as English has; ids and log-probs have as many digits as those of a real model.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from typing import Any

import orjson

Json = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One kind of call."""

    prompt: int
    """Tokens."""
    response: int
    messages: int
    delay_s: float = 0.0
    """How long the backend takes."""


SHAPES = {
    "short": Shape(2_000, 256, messages=6),
    "long": Shape(16_000, 512, messages=40),
    "slow": Shape(2_000, 256, messages=6, delay_s=0.2),
}
"""By the name of the model that answers so."""
TOKENS = {"logprobs": True, "return_token_ids": True}
"""What a caller adds to get what our gateway asks for by itself."""
_LETTERS = string.ascii_lowercase


def _text(tokens: int, seed: int) -> list[str]:
    """Tokens of four characters each, one in ten with a character that JSON escapes, as in prose with some code."""
    rng = random.Random(seed)
    first = rng.choices((" ", "\n", '"'), weights=(18, 1, 1), k=tokens)
    return [one + "".join(rng.choices(_LETTERS, k=3)) for one in first]


def request(model: str, *, stream: bool = False, tokens: bool = False) -> bytes:
    """The body of a call as an OpenAI client writes it; `tokens`: the caller asks for ids and log-probs itself."""
    shape = SHAPES[model]
    each = shape.prompt // shape.messages
    roles = ["system", *("user" if number % 2 else "assistant" for number in range(1, shape.messages))]
    messages = [{"role": role, "content": "".join(_text(each, number))} for number, role in enumerate(roles)]
    body = {"model": model, "messages": messages, "temperature": 1.0, "max_tokens": shape.response}
    return orjson.dumps(body | ({"stream": True} if stream else {}) | (TOKENS if tokens else {}))


def answer(model: str, *, tokens: bool) -> bytes:
    """A whole answer."""
    shape, pieces, top = SHAPES[model], _text(SHAPES[model].response, 99), _top(model, "chat.completion")
    choice: Json = {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": "stop"}
    choice |= {"logprobs": {"content": [_logprob(piece) for piece in pieces]} if tokens else None}
    if tokens:
        choice["token_ids"] = _ids(shape.response, 2)
        top["prompt_token_ids"] = _ids(shape.prompt, 1)
    return orjson.dumps({**top, "choices": [choice], "usage": _usage(shape)})


def chunks(model: str, *, tokens: bool) -> list[bytes]:
    """A streamed answer, one token a chunk, as server-sent events."""
    shape, pieces, top = SHAPES[model], _text(SHAPES[model].response, 99), _top(model, "chat.completion.chunk")
    events: list[Json] = []
    for number, (piece, token) in enumerate(zip(pieces, _ids(shape.response, 2), strict=True)):
        delta = {"content": piece} if number else {"role": "assistant", "content": piece}
        choice: Json = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        if tokens:
            choice |= {"logprobs": {"content": [_logprob(piece)]}, "token_ids": [token]}
        events.append({**top, "choices": [choice]})
    if tokens:
        events[0]["prompt_token_ids"] = _ids(shape.prompt, 1)
    events[-1]["choices"][0]["finish_reason"] = "stop"
    events.append({**top, "choices": [], "usage": _usage(shape)})
    return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


def _top(model: str, kind: str) -> Json:
    return {"id": "chatcmpl-6f0c1f5e5b1e4f0e9a1d2c3b4a596877", "object": kind, "created": 1_790_000_000, "model": model}


def _usage(shape: Shape) -> Json:
    total = shape.prompt + shape.response
    return {"prompt_tokens": shape.prompt, "completion_tokens": shape.response, "total_tokens": total}


def _logprob(piece: str) -> Json:
    value = -random.Random(piece).expovariate(2.0)
    return {"token": piece, "logprob": value, "bytes": list(piece.encode()), "top_logprobs": []}


def _ids(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(150_000) for _ in range(count)]
