"""`HttpBackend`: passes calls to any OpenAI-compatible URL and reads tokens from the answer, as vLLM gives them.

Called by the gateway. `chat` and `completions` are asked for their tokens; other dialects pass through untouched.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import urlsplit

from agentlightning.types import ChatReply, RequestError
from agentlightning.utils.collector import collector_paused

from ..backend import Dialect, Json
from ..dialects.messages.chunks import MessageReader
from .assemble import Assembler
from .fields import Fields, strip_usage, wants_usage
from .tokens import Sampled, token_calls
from .upstream import IDLE_SECONDS, Upstream, UpstreamError

T = TypeVar("T")
_PATHS: dict[Dialect, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "messages": "/messages",
    "embeddings": "/embeddings",
}
_SPEAKS: frozenset[Dialect] = frozenset(("chat", "completions", "embeddings"))


class HttpBackend:
    """An OpenAI-compatible endpoint.

    Args:
        base_url: As the `openai` client wants it, usually ending in `/v1`.
        api_key: Sent as a bearer token. The agent's own key never goes upstream.
        model: Name of the model at the endpoint; `None`: the name that the agent used.
        speaks: The dialects that the endpoint has; `None`: chat, completions and embeddings, and OpenAI's own also
            responses. The gateway translates what is not among them.
        tempered_logprobs: Whether the endpoint's log-probs are those at the sampling temperature (vLLM with
            `--logprobs-mode processed_logprobs`, our own server). Otherwise they are taken to be those at
            temperature 1, vLLM's default, and recorded only for calls at that temperature.
        weights_version: The version of the weights at the endpoint, asked when a call begins. It counts where the
            answer names none, as vLLM's `weight_versions` does; of several in one answer the lowest is recorded.
        timeout: Longest time of a call in seconds; of a stream: to its first chunk.
        idle_timeout: Longest time in seconds between two chunks of a stream.

    A request without a `temperature` is sent with 1, OpenAI's default: vLLM would else take one from the model's
    generation config, and nobody could say what the log-probs are worth. An endpoint that refuses a field which only
    the gateway wants is asked again without it; if it answers then, from then on always. Streams ask for the usage.
    """

    ask: ClassVar[Mapping[Dialect, Json]] = {
        "chat": {"return_token_ids": True, "logprobs": True, "return_weight_versions": True},
        "completions": {"return_token_ids": True, "logprobs": 1, "return_weight_versions": True},
    }
    """By dialect: the fields that ask for tokens."""
    answered: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "return_token_ids": ("token_ids", "prompt_token_ids"),
        "return_weight_versions": ("weight_versions",),
    }
    """By field: what it brings into an answer or its choices."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        model: str | None = None,
        speaks: Iterable[Dialect] | None = None,
        tempered_logprobs: bool = False,
        weights_version: Callable[[], int] | int = 0,
        timeout: float = 600.0,
        idle_timeout: float = IDLE_SECONDS,
    ) -> None:
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._upstream = Upstream(base_url, headers, timeout=timeout, idle_timeout=idle_timeout)
        self.base_url = self._upstream.base_url
        self.weights_version = weights_version
        self.mixed_versions = 0
        """Answers so far whose tokens were sampled by more than one version of the weights."""
        own = frozenset[Dialect](["responses"]) if urlsplit(base_url).hostname == "api.openai.com" else frozenset()
        self._speaks = _SPEAKS | own if speaks is None else frozenset(speaks)
        self._model = model
        self._tempered = tempered_logprobs
        self._fields = Fields(self.ask, self.answered)

    @property
    def speaks(self) -> frozenset[Dialect]:
        """The dialects that `call` and `stream` take."""
        return self._speaks

    async def call(self, dialect: Dialect, body: Json) -> ChatReply:
        """Answer one request.

        Raises:
            UpstreamError: the endpoint's answer is not 200.
            RequestError: 502 if the endpoint can't be reached or answers nonsense, 503 if it gave the call up, 504 if
                it is too slow; 400 if it does not speak the dialect.
        """
        self._check(dialect)
        version = self._version()
        sent, data = await self._asked(dialect, body, lambda sent: self._post(dialect, sent))
        with collector_paused():
            response = self._upstream.read_object(data)
            if dialect not in self.ask:
                return ChatReply(response, [])
            self._check_choices(response, data)
            return self._reply(body, sent, response, version)

    async def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        """Answer one request with its chunks as they arrive, and at last with the whole `ChatReply`.

        Raises:
            UpstreamError: the endpoint's answer is not 200, or it sent an error within its stream.
            RequestError: as `call`; also where a stream is malformed or ends early (502) or stands still (504).
        """
        self._check(dialect)
        if dialect == "embeddings":
            raise RequestError("embeddings can't be streamed; leave out `stream`", param="stream")
        version = self._version()
        sent, events = await self._asked(dialect, body, lambda sent: self._start(dialect, sent))
        async with contextlib.aclosing(events):
            if dialect not in self.ask:
                async for item in self._passed(dialect, events):
                    yield item
                return
            assembler = Assembler(self.base_url, "chat" if dialect == "chat" else "completions")
            async for chunk in events:
                assembler.feed(chunk)
                self._check_abort(chunk)
                self._fields.strip(chunk, body)
                if wants_usage(body) or strip_usage(chunk):
                    yield chunk
        yield self._reply(body, sent, assembler.response(), version)

    async def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        await self._upstream.close()

    def token_form(self, response: Json) -> Json:
        """An answer as vLLM would have written its tokens."""
        return response

    # -- requests ---------------------------------------------------------------------------------------------------

    async def _asked(self, dialect: Dialect, body: Json, send: Callable[[Json], Awaitable[T]]) -> tuple[Json, T]:
        """Send a request, without what turns out to be refused. That is learnt only where the rest is answered: a
        refusal may name a field of ours while it is about the agent's."""
        named = body if self._model is None else {**body, "model": self._model}
        if dialect not in self.ask:
            return named, await send(named)
        dropped: frozenset[str] = frozenset()
        while True:
            sent = self._fields.request(dialect, named, dropped)
            try:
                answer = await send(sent)
            except UpstreamError as error:
                refused = self._fields.named_in(error, dialect, named, sent)
                if refused is None:
                    raise
                dropped |= {refused}
            else:
                self._fields.learn(named, dropped)
                return sent, answer

    async def _post(self, dialect: Dialect, sent: Json) -> bytes:
        return await self._upstream.post(_PATHS[dialect], sent)

    async def _start(self, dialect: Dialect, sent: Json) -> AsyncGenerator[Json, None]:
        """The events, once the first of them is there: from then on the request counts as taken."""
        events = self._upstream.events(_PATHS[dialect], sent)
        first = await anext(events, None)
        if first is None:
            raise self._nonsense("ended its stream without an answer")
        return _resume(first, events)

    def _check(self, dialect: Dialect) -> None:
        if dialect not in self._speaks:
            raise RequestError(f"the backend at {self.base_url} is not set up for `{dialect}`; add it to its `speaks`")

    def _version(self) -> int:
        return self.weights_version if isinstance(self.weights_version, int) else self.weights_version()

    # -- answers ----------------------------------------------------------------------------------------------------

    def _reply(self, body: Json, sent: Json, response: Json, version: int) -> ChatReply:
        self._check_abort(response)
        temperature = sent.get("temperature")
        # At temperature 0 nothing is divided: the log-probs are those at 1.
        tempered = float(temperature) or 1.0 if isinstance(temperature, (int, float)) else 1.0
        exact = self._tempered or tempered == 1.0
        sampled = Sampled(body["model"], tempered, exact, version, bool(body.get("echo")))
        calls, mixed = token_calls(self.base_url, self.token_form(response), sampled)
        self.mixed_versions += mixed
        self._fields.strip(response, body)
        return ChatReply(response, calls)

    def _check_choices(self, response: Json, data: bytes) -> None:
        choices = response.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in cast("list[Any]", choices)):
            raise self._nonsense(f"sent no list of `choices`: {data[:200]!r}")

    def _check_abort(self, answer: Json) -> None:
        """A server that is paused or flushed for new weights may end running calls: what they said is no answer."""
        if any(choice.get("finish_reason") == "abort" for choice in answer.get("choices") or []):
            raise RequestError(
                f"the backend at {self.base_url} gave the call up (finish reason `abort`)", status=503, code="aborted"
            )

    async def _passed(
        self, dialect: Dialect, events: AsyncGenerator[Json, None]
    ) -> AsyncGenerator[Json | ChatReply, None]:
        """Events of `responses` or `messages`, and at last the answer that they make."""
        message = MessageReader()
        whole: Json | None = None
        async for event in events:
            if event.get("type") == "response.failed":
                raise self._failed(event)
            if dialect == "messages":
                message.feed(event)
            elif event.get("type") in ("response.completed", "response.incomplete"):
                whole = event.get("response")
            yield event
        if dialect == "messages":
            whole = message.message
        if not isinstance(whole, dict):
            raise self._nonsense("ended its stream early, before `response.completed`")
        yield ChatReply(whole, [])

    def _failed(self, event: Json) -> UpstreamError:
        error = (event.get("response") or {}).get("error")
        message = f"the backend at {self.base_url} failed midway: {error!r:.500}"
        return UpstreamError(message, 502, {"error": error} if isinstance(error, dict) else None)

    def _nonsense(self, what: str) -> RequestError:
        return RequestError(f"the backend at {self.base_url} {what}", status=502)


async def _resume(first: Json, events: AsyncGenerator[Json, None]) -> AsyncGenerator[Json, None]:
    async with contextlib.aclosing(events):
        yield first
        async for event in events:
            yield event
