"""What the gateway needs of a backend. Implemented by `http_backend` here and by the native engine's service."""

from __future__ import annotations

from typing import Any, Protocol

from agentlightning.types import ChatReply


class Backend(Protocol):
    """Answers chat completions: the native engine's `ChatService`, an `HttpBackend`, or anything alike."""

    async def chat(self, body: dict[str, Any]) -> ChatReply:
        """Answer one request (OpenAI's JSON as a dictionary).

        Raises:
            RequestError: the request can't be served; its status and message go to the agent.
        """
        ...
