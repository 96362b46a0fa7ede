"""A real HTTP endpoint on this machine, and answers in the shapes that vLLM 0.32/0.33 and SGLang 0.5 send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]
Write = Callable[[web.Request], Awaitable[web.StreamResponse]]
DONE = b"data: [DONE]\n\n"


class Endpoint:
    """Answers every POST with `answer` and keeps what it was sent."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[Json], web.Response | Write] = lambda body: web.json_response({})
        self.url = ""
        self.gone = asyncio.Event()
        """Set when a client goes away in the middle of a stream."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.paths.append(request.path)
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = self.answer(body)
        if isinstance(answer, web.Response):
            return answer
        try:
            return await answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise


@asynccontextmanager
async def serving() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/{path:.*}", endpoint.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield endpoint
    await runner.cleanup()


def sse(events: Iterable[Json]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


def streaming(pieces: Sequence[bytes], end: str = "well", wait: asyncio.Event | None = None) -> Write:
    """Sends the pieces one by one. At the `end` the stream ends well, the connection is cut, or nothing more comes.

    With `wait` the second piece and what follows come only when it is set.
    """

    async def write(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for at, piece in enumerate(pieces):
            if at and wait is not None:
                await wait.wait()
            await response.write(piece)
            await asyncio.sleep(0)
        if end == "cut":
            assert request.transport is not None
            request.transport.abort()
        if end == "hang":
            await asyncio.Event().wait()
        return response

    return write


# -- vLLM: recorded on 0.32, `weight_versions` from 0.33 ------------------------------------------------------------

PROMPT = [3, 89, 87, 274, 203]


def span(version: str, start: int, end: int) -> Json:
    return {"version": version, "start": start, "end": end}


def vllm_chat(body: Json, ids: Sequence[Sequence[int]] = ((343, 360, 983),), versions: Any = None) -> Json:
    """The whole answer to `body`: one choice for each list of ids, each id the word `w<id> `."""
    choices: list[Json] = []
    for index, own in enumerate(ids):
        choice: Json = {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(f"w{one} " for one in own),
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": {"content": [_logprob(one) for one in own]} if body.get("logprobs") else None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": [*own] if body.get("return_token_ids") else None,
            "routed_experts": None,
        }
        if body.get("return_weight_versions") and versions is not None:
            choice["weight_versions"] = versions
        choices.append(choice)
    return {
        "id": "chatcmpl-b64f2287caa45948",
        "object": "chat.completion",
        "created": 1795248804,
        "model": body["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": "vllm-0.32.0-ed63ebb2",
        "usage": usage(len(PROMPT), sum(map(len, ids))),
        "prompt_logprobs": None,
        "prompt_token_ids": PROMPT if body.get("return_token_ids") else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def vllm_chat_chunks(body: Json, ids: Sequence[Sequence[int]] = ((343, 360, 983),), versions: Any = None) -> list[Json]:
    """The same as a stream: the prompt's ids in the first chunk, each token in one of its own."""
    top = {"id": "chatcmpl-8adc", "object": "chat.completion.chunk", "created": 1795248819, "model": body["model"]}
    first: Json = {"prompt_token_ids": PROMPT if body.get("return_token_ids") else None, "prompt_text": None}
    chunks: list[Json] = []
    for index, _ in enumerate(ids):
        start = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        chunks.append({**top, "choices": [start], **(first if not chunks else {})})
    for at in range(max(map(len, ids))):
        for index, own in enumerate(ids):
            if at >= len(own):
                continue
            last = at == len(own) - 1
            choice: Json = {
                "index": index,
                "delta": {"content": f"w{own[at]} "},
                "logprobs": {"content": [_logprob(own[at])]} if body.get("logprobs") else None,
                "finish_reason": "stop" if last else None,
                "token_ids": [own[at]] if body.get("return_token_ids") else None,
            }
            if last:
                choice["stop_reason"] = None
                if body.get("return_weight_versions") and versions is not None:
                    choice["weight_versions"] = versions
            chunks.append({**top, "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**top, "choices": [], "usage": usage(len(PROMPT), sum(map(len, ids)))})
    return chunks


def vllm_completion(body: Json, ids: Sequence[int] = (677, 128, 493)) -> Json:
    return {
        "id": "cmpl-b1d8069adf8f807b",
        "object": "text_completion",
        "created": 1795248819,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "text": "".join(f"w{one} " for one in ids),
                "logprobs": _completion_logprobs(ids) if body.get("logprobs") else None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": [*ids] if body.get("return_token_ids") else None,
                "prompt_logprobs": None,
                "prompt_token_ids": [5, 6, 7] if body.get("return_token_ids") else None,
                "routed_experts": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": "vllm-0.32.0-ed63ebb2",
        "usage": usage(3, len(ids)),
        "kv_transfer_params": None,
    }


def vllm_completion_chunks(body: Json, ids: Sequence[int] = (677, 128, 493)) -> list[Json]:
    top = {"id": "cmpl-8adc", "object": "text_completion", "created": 1795248819, "model": body["model"]}
    chunks: list[Json] = []
    for at, one in enumerate(ids):
        choice: Json = {
            "index": 0,
            "text": f"w{one} ",
            "logprobs": _completion_logprobs([one]) if body.get("logprobs") else None,
            "finish_reason": "length" if at == len(ids) - 1 else None,
            "stop_reason": None,
            "token_ids": [one] if body.get("return_token_ids") else None,
        }
        if at == 0:
            choice["prompt_token_ids"] = [5, 6, 7] if body.get("return_token_ids") else None
        chunks.append({**top, "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**top, "choices": [], "usage": usage(3, len(ids))})
    return chunks


def vllm(body: Json) -> web.Response | Write:
    """Whole or streamed, chat or completion, as the request wants it."""
    chat = "messages" in body
    if body.get("stream"):
        return streaming(
            [sse([each]) for each in (vllm_chat_chunks if chat else vllm_completion_chunks)(body)] + [DONE]
        )
    return web.json_response((vllm_chat if chat else vllm_completion)(body))


def refusal(message: str, status: int = 400, **more: Any) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status, **more}
    return web.json_response({"error": error}, status=status)


def usage(prompt: int, completion: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
    }


def value(token: int) -> float:
    """The log-prob that this endpoint gives a token; exact in single precision."""
    return -token / 64


def _logprob(token: int) -> Json:
    return {"token": f"w{token} ", "logprob": value(token), "bytes": [], "top_logprobs": []}


def _completion_logprobs(ids: Sequence[int]) -> Json:
    return {
        "text_offset": [0] * len(ids),
        "token_logprobs": [*map(value, ids)],
        "tokens": [f"w{one} " for one in ids],
        "top_logprobs": [{f"w{one} ": value(one)} for one in ids],
    }


# -- SGLang ---------------------------------------------------------------------------------------------------------


def sglang(body: Json, version: Any = "default") -> web.Response | Write:
    """Ids under other names and per choice; none in a stream."""
    if body.get("stream"):
        for field in ("return_prompt_token_ids", "return_token_ids", "return_meta_info"):
            if body.get(field):
                return refusal(f"{field} is not supported with streaming. Please set stream=false when using {field}.")
        plain = {key: body[key] for key in body if key != "return_token_ids"}
        return streaming([sse([each]) for each in vllm_chat_chunks(plain)] + [DONE])
    answer = vllm_chat({**body, "return_token_ids": False})
    del answer["prompt_token_ids"]
    choice = answer["choices"][0]
    del choice["token_ids"]
    choice["matched_stop"] = 2
    if body.get("return_prompt_token_ids"):
        choice["prompt_token_ids"] = PROMPT
    if body.get("return_token_ids"):
        choice["response_token_ids"] = [343, 360, 983]
    if body.get("return_meta_info"):
        choice["meta_info"] = {"id": "a", "finish_reason": {"type": "stop", "matched": 2}, "weight_version": version}
    return web.json_response(answer)
