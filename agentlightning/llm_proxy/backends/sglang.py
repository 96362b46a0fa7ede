"""`SGLangBackend`: SGLang's OpenAI interface, which names tokens in its own way and gives none while streaming.

Called by the gateway; all the rest is `HttpBackend`'s. The native `/generate` is not needed: chat and completions give
the same tokens, and the server applies the model's chat template itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, ClassVar, cast

from agentlightning.types import ChatReply

from ..backend import Dialect, Json
from .assemble import split
from .fields import wants_usage
from .openai import HttpBackend
from .upstream import IDLE_SECONDS


class SGLangBackend(HttpBackend):
    """A server of SGLang.

    Args:
        base_url: Usually ending in `/v1`.
        api_key: Sent as a bearer token.
        model: Name of the model at the endpoint; `None`: the name that the agent used.
        exact_streams: SGLang refuses to return token ids in a stream. `True`: a stream is asked for as one whole
            answer and replayed in chunks when it is complete: its tokens are exact, but nothing arrives before the
            end. `False`: chunks pass as they arrive, and the call has no tokens, so it can't be trained on.
        speaks: See `HttpBackend`.
        tempered_logprobs: SGLang's log-probs are those at the sampling temperature, unless it was started with
            `SGLANG_RETURN_ORIGINAL_LOGPROB`: say `False` then.
        weights_version: See `HttpBackend`; the answer's own `meta_info` goes before it.
        timeout: See `HttpBackend`.
        idle_timeout: See `HttpBackend`.
    """

    ask: ClassVar[Mapping[Dialect, Json]] = {
        "chat": {
            "return_prompt_token_ids": True,
            "return_token_ids": True,
            "return_meta_info": True,
            "logprobs": True,
        },
        "completions": {"return_token_ids": True, "logprobs": 1},
    }
    answered: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "return_prompt_token_ids": ("prompt_token_ids",),
        "return_token_ids": ("response_token_ids", "token_ids"),
        "return_meta_info": ("meta_info",),
    }

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        model: str | None = None,
        exact_streams: bool = True,
        speaks: Iterable[Dialect] | None = None,
        tempered_logprobs: bool = True,
        weights_version: Callable[[], int] | int = 0,
        timeout: float = 600.0,
        idle_timeout: float = IDLE_SECONDS,
    ) -> None:
        super().__init__(
            base_url,
            api_key,
            model=model,
            speaks=speaks,
            tempered_logprobs=tempered_logprobs,
            weights_version=weights_version,
            timeout=timeout,
            idle_timeout=idle_timeout,
        )
        self._exact_streams = exact_streams

    async def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        """As `HttpBackend.stream`; see `exact_streams` for when chunks come."""
        if dialect not in self.ask or not self._exact_streams:
            async for item in super().stream(dialect, body):
                yield item
            return
        whole = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
        reply = await self.call(dialect, whole)
        for chunk in split(reply.response, usage=wants_usage(body)):
            yield chunk
        yield reply

    def token_form(self, response: Json) -> Json:
        """Response ids under vLLM's name, and the versions of `meta_info` as spans."""
        return response | {"choices": [_renamed(choice) for choice in response["choices"]]}


def _renamed(choice: Json) -> Json:
    ids = choice.get("response_token_ids")
    ids = choice.get("token_ids") if ids is None else ids  # completions have vLLM's name
    return choice | {"token_ids": ids, "weight_versions": _spans(choice.get("meta_info"))}


def _spans(info: Any) -> list[Json]:
    """vLLM's spans, as far as their versions go."""
    found = cast("Json", info) if isinstance(info, dict) else {}
    several, one = found.get("weight_versions"), found.get("weight_version")
    versions = cast("list[Any]", several) if isinstance(several, list) and several else [one]
    named = [cast("Json", each).get("version") if isinstance(each, dict) else each for each in versions]
    return [{"version": name} for name in named if isinstance(name, (str, int))]
