"""`AnthropicBackend`: a model behind Anthropic's Messages API.

Called by `pool` for the gateway. Requests of agents that speak this interface pass through; chat completions are
translated by `dialects/messages`. Uses `upstream` for HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from agentlightning.types import ChatReply

from ..backend import Dialect, Json
from ..dialects.messages.answers import chat_answer
from ..dialects.messages.chunks import ChunkWriter, MessageReader
from ..dialects.messages.messages_request import messages_request
from .upstream import Upstream, UpstreamError

_PATH = "/messages"


class AnthropicBackend:
    """Anthropic's endpoint, or one that speaks like it. It tells no token ids, so its answers come without `calls`.

    Args:
        base_url: With or without `/v1`.
        api_key: Sent as `x-api-key`. The agent's own key never goes upstream.
        model: Name of the model at the endpoint; `None`: the name that the agent used.
        version: Sent as `anthropic-version`. The next one, 2026-10-21, refuses `temperature`, `top_p` and `top_k`.
        betas: Sent as `anthropic-beta`.
        timeout: Longest time of a call in seconds; of a stream: to its first event.
    """

    speaks: frozenset[Dialect] = frozenset({"chat", "messages"})

    def __init__(
        self,
        base_url: str = "https://api.anthropic.com",
        api_key: str | None = None,
        *,
        model: str | None = None,
        version: str = "2023-06-01",
        betas: Sequence[str] = (),
        timeout: float = 600.0,
    ) -> None:
        headers = {"anthropic-version": version}
        if api_key is not None:
            headers["x-api-key"] = api_key
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        self._upstream = Upstream(f"{base_url.rstrip('/').removesuffix('/v1')}/v1", headers, timeout=timeout)
        self.base_url = self._upstream.base_url
        self._model = model

    async def call(self, dialect: Dialect, body: Json) -> ChatReply:
        """See `Backend`.

        Raises:
            UpstreamError: the endpoint's answer is not 200; its body is of the dialect's form.
            RequestError: 400 for a chat completion that the endpoint can't serve, 502 if the endpoint can't be reached
                or answers nonsense, 504 if it is too slow.
        """
        try:
            data = await self._upstream.post(_PATH, self._request(dialect, body))
        except UpstreamError as error:
            raise _refusal(dialect, error) from error
        message = self._upstream.read_object(data)
        chat = chat_answer(message)  # also tells whether it is a Message
        return ChatReply(chat if dialect == "chat" else message, [])

    async def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        """See `Backend`.

        Raises:
            UpstreamError, RequestError: as `call`; also midway, where the stream breaks off, is malformed, or holds an
                error.
        """
        reader = MessageReader()
        options: Json = body.get("stream_options") or {}
        writer = ChunkWriter(with_usage=bool(options.get("include_usage")))
        async with contextlib.aclosing(self._upstream.events(_PATH, self._request(dialect, body))) as events:
            try:
                async for event in events:
                    reader.feed(event)
                    for item in writer.feed(event, reader) if dialect == "chat" else (event,):
                        yield item
            except UpstreamError as error:
                raise _refusal(dialect, error) from error
        message = reader.message
        yield ChatReply(chat_answer(message, writer.created) if dialect == "chat" else message, [])

    async def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        await self._upstream.close()

    def _request(self, dialect: Dialect, body: Json) -> Json:
        match dialect:
            case "chat":
                sent = messages_request(body)
            case "messages":
                sent = body
            case _:
                raise ValueError(f"`dialect` is {dialect!r}; this backend speaks chat and messages")
        return sent if self._model is None else sent | {"model": self._model}


def _refusal(dialect: Dialect, error: UpstreamError) -> UpstreamError:
    """Anthropic's error as the dialect's clients read it."""
    body: dict[str, Any] = error.to_body()
    if dialect != "chat" or body.get("type") != "error" or not isinstance(body.get("error"), dict):
        return error
    inner = cast("dict[str, Any]", body["error"])
    told = {"message": inner.get("message"), "type": inner.get("type"), "param": None, "code": inner.get("type")}
    return UpstreamError(error.message, error.status, {"error": told}, error.retry_after)
