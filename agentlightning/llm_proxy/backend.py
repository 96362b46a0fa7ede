"""What the gateway needs of a backend. Implemented by the files of `backends/` and by the native engine's service."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, Protocol

from agentlightning.types import ChatReply

Json = dict[str, Any]
Dialect = Literal["chat", "completions", "responses", "messages", "embeddings"]
"""What a request is written in: OpenAI's chat completions, completions, responses and embeddings, or Anthropic's
messages."""


class Backend(Protocol):
    """Answers requests: the native engine's `ChatService`, an `HttpBackend`, or anything alike.

    The gateway asks in a dialect that the backend speaks: in the agent's own where it can, else it translates to and
    from `chat`. A request that wants a stream has `"stream": true` and goes to `stream`, any other to `call`.
    """

    @property
    def speaks(self) -> frozenset[Dialect]:
        """The dialects that `call` and `stream` take; `chat` at least, for a model that writes text."""
        ...

    async def call(self, dialect: Dialect, body: Json) -> ChatReply:
        """Answer a request (its JSON as a dictionary, not to be changed) with the dialect's answer and the tokens.

        Raises:
            RequestError: the request can't be served; its status and message go to the agent.
        """
        ...

    def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        """Answer a request with the dialect's chunks or events as they arrive, as dictionaries.

        The last thing that it yields is a `ChatReply`: the whole answer, as `call` would have given it, and its
        tokens. Closing the generator early ends the request at the backend.

        Raises:
            RequestError: as `call`; also after some chunks, if the backend fails midway.
        """
        ...
