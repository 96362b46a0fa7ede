"""What endpoints of each kind answer, whatever interface and feature they are asked for: for the test of the matrix.

The shapes are those of `backends/endpoint.py` and `backends/fake_anthropic.py`. Where a tool is offered it is called;
`n` answers are given where they are asked for. A stream waits behind its first piece until `go_on` is set.
"""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from agentlightning.llm_proxy.dialects import RESPONSES

from .agents import FUNCTION
from .backends import fake_anthropic
from .backends.endpoint import (
    DONE,
    PROMPT,
    Json,
    Write,
    refusal,
    sse,
    streaming,
    usage,
    vllm_chat,
    vllm_chat_chunks,
    vllm_completion,
    vllm_completion_chunks,
)

IDS = ((343, 360, 983), (344, 361))
"""Of the first answer and the second."""
ARGUMENTS = {"expression": "3 + 4"}
VECTOR = [0.5, -0.25, 1.0]
_FIELDS = ("return_prompt_token_ids", "return_token_ids", "return_meta_info", "return_weight_versions")


class Upstream:
    """An endpoint's manners. `answer_*` are for `Endpoint.answer`."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    def vllm(self, body: Json) -> web.Response | Write:
        """Token ids and log-probs where they are asked for, streamed or not."""
        if "input" in body:
            return _vectors(body)
        if not body.get("stream"):
            return web.json_response(_chat(body) if "messages" in body else _completion(body))
        chunks = _chat_chunks(body) if "messages" in body else _completion_chunks(body)
        return self._stream([sse([each]) for each in chunks] + [DONE])

    def sglang(self, body: Json) -> web.Response | Write:
        """Other names, ids per choice, and none in a stream."""
        if "input" in body or "prompt" in body:
            return self.vllm(body)
        if body.get("stream"):
            refused = next((field for field in _FIELDS if body.get(field)), None)
            return refusal(f"{refused} is not supported with streaming.") if refused else self.vllm(body)
        answer = _chat({**body, "return_token_ids": False})
        for choice, ids in zip(answer["choices"], IDS, strict=False):
            choice |= {"prompt_token_ids": PROMPT, "response_token_ids": ids} if body.get("return_token_ids") else {}
        return web.json_response(answer)

    def openai(self, body: Json) -> web.Response | Write:
        """No token ids, and fields that it does not know are refused. It has the Responses API."""
        refused = next((field for field in _FIELDS if field in body), None)
        if refused:
            return refusal(f"Unrecognized request argument supplied: {refused}")
        if "input" not in body or "max_output_tokens" not in body:
            return self.vllm(body)
        asked = RESPONSES.to_chat(body)
        if not body.get("stream"):
            return web.json_response(RESPONSES.from_chat(body, _chat(asked)))
        translator = RESPONSES.translator(body)
        events = [event for chunk in _chat_chunks(asked) for event in translator.feed(chunk)]
        events += translator.end(_chat(asked))
        return self._stream([RESPONSES.frame(event) for event in events])

    def anthropic(self, body: Json) -> web.Response | Write:
        """The Messages API."""
        use = {"type": "tool_use", "id": "toolu_01A", "name": FUNCTION["name"], "input": ARGUMENTS}
        called = bool(body.get("tools"))
        text = fake_anthropic.text("w343 w360 w983 ")
        whole = fake_anthropic.message(use if called else text, stop_reason="tool_use" if called else "end_turn")
        if not body.get("stream"):
            return web.json_response(whole)
        events = fake_anthropic.events(whole)
        return self._stream([b"event: %b\n" % event["type"].encode() + sse([event]) for event in events])

    def _stream(self, pieces: list[bytes]) -> Write:
        return streaming(pieces, wait=self.go_on)


def _ids(body: Json) -> tuple[tuple[int, ...], ...]:
    return IDS[: body.get("n") or 1]


def _call(index: int | None = None, *, name: bool = True, arguments: str = "") -> Json:
    call: Json = {"function": {"arguments": arguments}}
    if name:
        call = {"id": "call_1", "type": "function", "function": {"name": FUNCTION["name"], "arguments": arguments}}
    return call if index is None else {"index": index, **call}


def _chat(body: Json) -> Json:
    answer = vllm_chat(body, _ids(body))
    if body.get("tools"):
        for choice in answer["choices"]:
            called = {"content": None, "tool_calls": [_call(arguments=orjson.dumps(ARGUMENTS).decode())]}
            choice |= {"finish_reason": "tool_calls", "message": {"role": "assistant", **called}}
    return answer


def _chat_chunks(body: Json) -> list[Json]:
    chunks = vllm_chat_chunks(body, _ids(body))
    if body.get("tools"):  # three tokens: the name, and the arguments in two pieces
        text = orjson.dumps(ARGUMENTS).decode()
        pieces = [_call(0), _call(0, name=False, arguments=text[:9]), _call(0, name=False, arguments=text[9:])]
        for chunk in chunks:
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    choice["delta"] = {"tool_calls": [pieces.pop(0)]}
                    choice["finish_reason"] = choice["finish_reason"] and "tool_calls"
    return chunks


def _completion(body: Json) -> Json:
    answers = [vllm_completion(body, ids) for ids in _ids(body)]
    for index, each in enumerate(answers):
        each["choices"][0]["index"] = index
    counted = usage(3, sum(map(len, _ids(body))))
    return answers[0] | {"choices": [each["choices"][0] for each in answers], "usage": counted}


def _completion_chunks(body: Json) -> list[Json]:
    found: list[Json] = []
    for index, ids in enumerate(_ids(body)):
        for chunk in vllm_completion_chunks({**body, "stream_options": {}}, ids):
            chunk["choices"][0]["index"] = index
            found.append(chunk)
    return [*found, {**found[0], "choices": [], "usage": usage(3, sum(map(len, _ids(body))))}]


def _vectors(body: Json) -> web.Response:
    data = [{"object": "embedding", "index": 0, "embedding": VECTOR}]
    counted = {"prompt_tokens": 4, "total_tokens": 4}
    return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": counted})
