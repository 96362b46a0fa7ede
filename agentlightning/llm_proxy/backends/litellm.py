"""`LiteLLMBackend`: any provider that the LiteLLM library knows, called in this process (the extra `litellm`).

Called by the gateway for models that have no backend of their own. LiteLLM gives no token ids, so such calls can't be
trained on. The library takes seconds to import and is imported when the first call comes.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator
from typing import Any

from agentlightning.types import ChatReply, ConfigError, RequestError

from ..backend import Dialect, Json
from .assemble import Assembler
from .fields import strip_usage, wants_usage
from .upstream import UpstreamError

_CHAT = """
    messages model n stream stream_options temperature top_p top_k seed stop max_tokens max_completion_tokens
    presence_penalty frequency_penalty logit_bias logprobs top_logprobs tools tool_choice parallel_tool_calls functions
    function_call response_format reasoning_effort thinking modalities audio prediction user service_tier verbosity
    web_search_options
"""
"""What an agent may send. LiteLLM's functions take much more, as `api_base`, which would send our key elsewhere."""
_IGNORED = frozenset(("metadata", "store", "prompt_cache_key", "safety_identifier"))
"""Notes to OpenAI's own servers that change no answer."""
_EMBEDDINGS = "model input dimensions encoding_format user"


class LiteLLMBackend:
    """One model of a provider, by LiteLLM.

    Args:
        model: As LiteLLM writes it, with the provider in front.
        api_base: The provider's URL, where it has no fixed one.
        api_key: The provider's key; `None`: what LiteLLM finds in the environment.
        timeout: Longest time of a call in seconds; LiteLLM's `timeout`.
        options: Other options of LiteLLM for this model, such as `api_version`.

    Parameters that a provider does not have, such as the gateway's `seed`, are left out (LiteLLM's `drop_params`).
    """

    speaks: frozenset[Dialect] = frozenset(("chat", "embeddings"))

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        **options: Any,
    ) -> None:
        own = {"model": model, "api_base": api_base, "api_key": api_key, "timeout": timeout}
        # Tries are the gateway's business.
        self._own: Json = {"drop_params": True, "num_retries": 0, "max_retries": 0, **options, **own}
        self._model = model

    async def call(self, dialect: Dialect, body: Json) -> ChatReply:
        """Answer one request.

        Raises:
            UpstreamError: the provider's refusal, with its status.
            RequestError: 400 for a dialect or a field that can't be passed on.
            ConfigError: LiteLLM is not installed.
        """
        answer = await self._ask(dialect, body)
        return ChatReply(answer.model_dump(mode="json"), [])

    async def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        """Answer one chat request with its chunks as they arrive, and at last with the whole answer.

        Raises:
            UpstreamError, RequestError, ConfigError: as `call`; also midway.
        """
        if dialect != "chat":
            raise RequestError(f"`{dialect}` of {self._model!r} can't be streamed", param="stream")
        if body.get("n") not in (None, 1):  # LiteLLM's streams lose why the choices ended, but for one
            raise RequestError(f"`n` choices of {self._model!r} can't be streamed; leave out one of both", param="n")
        chunks = await self._ask(dialect, {**body, "stream_options": {"include_usage": True}})
        assembler = Assembler(f"LiteLLM's {self._model}", "chat")
        try:
            while (found := await self._next(chunks)) is not None:
                assembler.feed(found)
                if wants_usage(body) or strip_usage(found):
                    yield found
        finally:
            await chunks.aclose()
        yield ChatReply(assembler.response(), [])

    async def _ask(self, dialect: Dialect, body: Json) -> Any:
        if dialect not in self.speaks:
            raise RequestError(f"LiteLLM's {self._model!r} is not asked in `{dialect}`; use chat completions")
        allowed = _CHAT if dialect == "chat" else _EMBEDDINGS
        unknown = sorted(body.keys() - allowed.split() - _IGNORED)
        if unknown:
            raise RequestError(f"`{unknown[0]}` can't be passed on to {self._model!r}; leave it out", param=unknown[0])
        library = await asyncio.to_thread(_load)
        ask = library.acompletion if dialect == "chat" else library.aembedding
        sent = {key: value for key, value in body.items() if key not in _IGNORED}
        try:
            return await ask(**{**sent, **self._own})
        except library.exceptions.openai.OpenAIError as error:
            raise self._refusal(error) from error

    async def _next(self, chunks: Any) -> Json | None:
        try:
            chunk = await anext(chunks, None)
        except _load().exceptions.openai.OpenAIError as error:
            raise self._refusal(error) from error
        return None if chunk is None else chunk.model_dump(mode="json")

    def _refusal(self, error: Any) -> UpstreamError:
        status = getattr(error, "status_code", None)
        known = status if isinstance(status, int) and 400 <= status < 600 else 502
        return UpstreamError(f"LiteLLM's {self._model!r}: {error}", known, None)


def _load() -> Any:
    # Else it fetches its table of prices from the network while it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise ConfigError("`LiteLLMBackend` needs LiteLLM: `pip install agentlightning[litellm]`") from error
    litellm.suppress_debug_info = True  # it prints advertisements for its own help pages
    return litellm
