"""Chat completions on the native engine: messages in, OpenAI's answer and the exact tokens out.

Called by `server.py` and, in-process, by the gateway (`llm_proxy/`) as its backend; calls `chat.py`,
`engine.py` and `tools.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jinja2 import TemplateError

from agentlightning.types import ChatReply, ModelError, RequestError, TokenCall
from agentlightning.types.tokens import Int32

from .chat import ChatRequest, parse_chat_request
from .engine import Engine
from .sampling import Generation
from .tools import ParsedCall, parse_tool_calls


class ChatService:
    """Answers chat completion requests for one model.

    Args:
        engine: A running engine.
        tokenizer: The model's tokenizer, with a chat template.
        model_name: The name that clients ask for.
        aliases: Other names that mean the same model.
    """

    def __init__(self, engine: Engine, tokenizer: Any, model_name: str, aliases: Sequence[str] = ()):
        self.engine = engine
        self.model_name = model_name
        self._names = {model_name, *aliases}
        self._tokenizer = tokenizer
        self._end_ids = frozenset(engine.end_ids)

    async def chat(self, body: dict[str, Any]) -> ChatReply:
        """Answer one request. Cancelling the task that awaits it frees what the request holds.

        Args:
            body: A chat completion request as OpenAI's clients send it; `chat.py` says which fields count.

        Returns:
            The response, and one `TokenCall` for each choice. Its `temperature` is that of its log-probs: 1 where the
            request asked for 0.

        Raises:
            RequestError: the request can't be served; `status` says whose fault it is.
        """
        request = parse_chat_request(body)
        if request.model is not None and request.model not in self._names:
            raise RequestError(
                f"`model` {request.model!r} is not served here; ask for {self.model_name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )
        prompt = self.render(request)
        generations = await self._generate(prompt, request)
        choices = [self._choice(at, generation, request) for at, generation in enumerate(generations)]
        return ChatReply(self._response(choices, prompt, generations, request), [*map(self._call, generations)])

    def render(self, request: ChatRequest) -> Int32:
        """(P,) the prompt of a request, by the tokenizer's chat template."""
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                request.messages, tools=request.tools, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except TemplateError as error:
            raise RequestError(f"the model's chat template refuses `messages`: {error}", param="messages") from error
        return np.array(ids, dtype=np.int32)

    async def _generate(self, prompt: Int32, request: ChatRequest) -> list[Generation]:
        futures = [
            asyncio.wrap_future(
                self.engine.submit(prompt, replace(request.params, seed=_seed(request.params.seed, at)))
            )
            for at in range(request.n)
        ]
        try:
            return await asyncio.gather(*futures)
        except ModelError as error:
            raise RequestError(str(error), status=500, code="model_diverged") from error
        finally:
            for future in futures:
                future.cancel()

    def _choice(self, at: int, generation: Generation, request: ChatRequest) -> dict[str, Any]:
        content, calls = self._text(generation, request.params.stop), list[ParsedCall]()
        if request.tools is not None:
            content, calls = parse_tool_calls(content)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message["tool_calls"] = [_tool_call(call, generation, at, number) for number, call in enumerate(calls)]
        finish = "tool_calls" if calls and generation.finish_reason == "stop" else generation.finish_reason
        choice: dict[str, Any] = {"index": at, "message": message, "logprobs": None, "finish_reason": finish}
        if request.logprobs:
            choice["logprobs"] = {"content": self._logprobs(generation)}
        if request.return_token_ids:
            choice["token_ids"] = generation.token_ids.tolist()
        return choice

    def _text(self, generation: Generation, stops: tuple[str, ...]) -> str:
        """The response as text, without its end token and up to the first stop string.

        Special tokens within it stay: the next prompt must begin with the tokens that were sampled.
        """
        ids = generation.token_ids
        if generation.finish_reason == "stop" and int(ids[-1]) in self._end_ids:
            ids = ids[:-1]
        text = self._decode(ids)
        found = [at for at in map(text.find, stops) if at >= 0]
        return text[: min(found)] if found else text

    def _decode(self, ids: Int32) -> str:
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _logprobs(self, generation: Generation) -> list[dict[str, Any]]:
        texts = [self._decode(generation.token_ids[at : at + 1]) for at in range(len(generation.token_ids))]
        return [
            # A token that is part of a character has no text of its own.
            {
                "token": text,
                "logprob": logprob,
                "bytes": None if "\ufffd" in text else list(text.encode()),
                "top_logprobs": [],
            }
            for text, logprob in zip(texts, generation.logprobs.tolist(), strict=True)
        ]

    def _response(
        self, choices: list[dict[str, Any]], prompt: Int32, generations: list[Generation], request: ChatRequest
    ) -> dict[str, Any]:
        sampled = sum(len(generation.token_ids) for generation in generations)
        response: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model_name,
            "system_fingerprint": f"weights-{generations[0].weights_version}",
            "choices": choices,
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": sampled,
                "total_tokens": len(prompt) + sampled,
            },
        }
        if request.return_token_ids:
            response["prompt_token_ids"] = prompt.tolist()
        return response

    def _call(self, generation: Generation) -> TokenCall:
        return TokenCall(
            model=self.model_name,
            prompt_ids=generation.prompt_ids,
            response_ids=generation.token_ids,
            logprobs=generation.logprobs,
            finish_reason=generation.finish_reason,
            weights_version=generation.weights_version,
            temperature=generation.temperature or 1.0,
        )


def _seed(seed: int | None, choice: int) -> int | None:
    """Seed of one of the `n` choices; the first has the request's own."""
    if seed is None or choice == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest(), "little")


def _tool_call(call: ParsedCall, generation: Generation, choice: int, number: int) -> dict[str, Any]:
    # Some templates write the ids of calls into the next prompt, so equal generations must have equal ids.
    tokens = generation.prompt_ids.tobytes() + generation.token_ids.tobytes()
    digest = hashlib.blake2b(tokens + bytes([choice, number % 256]), digest_size=12).hexdigest()
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": f"call_{digest}", "type": "function", "function": {"name": call.name, "arguments": arguments}}
