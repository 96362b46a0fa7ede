"""Chat completions and completions on the native engine: OpenAI's answers and the exact tokens, whole or streamed.

Called by `server.py` and, in-process, by the gateway (`llm_proxy/`), whose `Backend` protocol `ChatService` fulfils;
calls the `*_request.py` and `*_answer.py` files and `engine.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from agentlightning.types import ChatReply, ModelError, RequestError, TokenCall
from agentlightning.types.tokens import Int32

from .answer import Answer
from .chat_answer import ChatAnswer
from .chat_request import ChatRequest, parse_chat_request
from .completion_answer import CompletionAnswer
from .completion_request import CompletionRequest, parse_completion_request
from .engine import PROMPT, Engine
from .fields import Json
from .sampling import Generation, SamplingParams
from .streams import Piece
from .text import Vocabulary

if TYPE_CHECKING:
    from agentlightning.llm_proxy.backend import Dialect

_PROMPT_FIELDS = {"chat": "messages", "completions": "prompt"}


class ChatService:
    """Answers chat completion and completion requests for one model.

    Args:
        engine: A running engine.
        tokenizer: The model's tokenizer, with a chat template.
        model_name: The name that clients ask for.
        aliases: Other names that mean the same model.
    """

    speaks: frozenset[Dialect] = frozenset({"chat", "completions"})
    """The dialects that `call` and `stream` take."""

    def __init__(self, engine: Engine, tokenizer: Any, model_name: str, aliases: Sequence[str] = ()):
        self.engine = engine
        self.model_name = model_name
        self._names = {model_name, *aliases}
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(tokenizer, engine.end_ids)

    async def call(self, dialect: Dialect, body: Json) -> ChatReply:
        """Answer one request. Cancelling the task that awaits it frees what the request holds.

        Args:
            dialect: `chat` or `completions`.
            body: A request as OpenAI's clients send it; `chat_request.py` and `completion_request.py` say which fields
                count.

        Returns:
            The response, and one `TokenCall` for each choice. Its `temperature` is that of its log-probs: 1 where the
            request asked for 0.

        Raises:
            RequestError: the request can't be served; `status` says whose fault it is.
        """
        answer = self._answer(dialect, body)
        with _refusals(dialect):
            generations = await self._generate(answer.requests)
        for which, generation in enumerate(generations):
            answer.feed(which, Piece.whole(generation))
            answer.finish(which, generation)
        return ChatReply(answer.response(), [*map(self._call, generations)])

    async def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply]:
        """Answer one request with chunks as its tokens are sampled. Closing the generator frees what the request holds.

        Args:
            dialect: As for `call`.
            body: As for `call`; the same tokens are sampled.

        Yields:
            OpenAI's chunks, and at the end what `call` would have returned: the whole that the chunks add up to.

        Raises:
            RequestError: as `call`; after some chunks only if the engine fails.
        """
        answer = self._answer(dialect, body)
        done: dict[int, Generation] = {}
        with _refusals(dialect):
            async with aclosing(self.engine.stream(answer.requests)) as items:
                async for which, item in items:
                    if isinstance(item, Generation):
                        done[which] = item
                    chunks = answer.feed(which, item) if isinstance(item, Piece) else answer.finish(which, item)
                    for chunk in chunks:
                        yield chunk
        for chunk in answer.end():
            yield chunk
        yield ChatReply(answer.response(), [self._call(done[which]) for which in range(len(done))])

    def _answer(self, dialect: Dialect, body: Json) -> Answer:
        """The answer to a request, to be filled."""
        if dialect == "chat":
            request = parse_chat_request(body)
            self._check_model(request.model)
            requests = _seeded(self._render(request), request)
            return ChatAnswer(self.model_name, self._vocabulary, request, requests)
        if dialect == "completions":
            request = parse_completion_request(body)
            self._check_model(request.model)
            requests = [pair for prompt in request.prompts for pair in _seeded(self._encode(prompt), request)]
            return CompletionAnswer(self.model_name, self._vocabulary, request, requests)
        raise RequestError(f"the native engine doesn't speak `{dialect}`; it speaks `chat` and `completions`")

    def _check_model(self, model: str | None) -> None:
        if model is not None and model not in self._names:
            raise RequestError(
                f"`model` {model!r} is not served here; ask for {self.model_name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def _render(self, request: ChatRequest) -> Int32:
        """(P,) the prompt of a chat request, by the tokenizer's chat template."""
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                request.messages, tools=request.tools, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except TemplateError as error:
            raise RequestError(f"the model's chat template refuses `messages`: {error}", param="messages") from error
        return np.array(ids, dtype=np.int32)

    def _encode(self, prompt: str | list[int]) -> NDArray[Any]:
        """(P,) the prompt of a completion request; ids may be anything that the client sent."""
        return np.array(self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)

    async def _generate(self, requests: Sequence[tuple[Int32, SamplingParams]]) -> list[Generation]:
        futures: list[asyncio.Future[Generation]] = []
        try:
            for prompt, params in requests:
                futures.append(asyncio.wrap_future(self.engine.submit(prompt, params)))  # may raise
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

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


@contextmanager
def _refusals(dialect: Dialect) -> Generator[None]:
    """The engine's errors, as they go to clients."""
    try:
        yield
    except ModelError as error:
        raise RequestError(str(error), status=500, code="model_diverged") from error
    except RequestError as error:
        if error.param == PROMPT:
            error.param = _PROMPT_FIELDS[dialect]
        raise


def _seeded(
    prompt: NDArray[Any], request: ChatRequest | CompletionRequest
) -> list[tuple[NDArray[Any], SamplingParams]]:
    """Prompt and parameters of each of the `n` choices."""
    params = request.params
    return [(prompt, replace(params, seed=_seed(params.seed, choice))) for choice in range(request.n)]


def _seed(seed: int | None, choice: int) -> int | None:
    """Seed of one of the `n` choices; the first has the request's own."""
    if seed is None or choice == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest(), "little")
