"""`Endpoint`: one try of a chat completion with the user's `openai` client, sync or async. Called by `writer`.

It learns what each model refuses: the first answer 400 that names `temperature`, `max_tokens` or `seed` takes that
option away for good. Where an answer of `max_tokens` does not fit into the model's context, a shorter one is asked
for. The client's own retries are off, so that each request is counted.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from agentlightning.types import ConfigError

from .budget import Call, Usage
from .faults import Fault, fault_of

if TYPE_CHECKING:
    from openai import DefaultAsyncHttpxClient

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]

_PER_MESSAGE = 16
_PER_REQUEST = 128
"""Tokens that a chat template may add to what the messages hold: marks around each, a default system prompt."""
_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_OPTIONS = ("temperature", "max_tokens", "max_completion_tokens", "seed")
_LENGTHS = ("max_tokens", "max_completion_tokens")
_TOO_LONG = re.compile(
    r"context.?length|\bmax_(completion_)?tokens\b.*(too large|maximum|at most|less than|valid range)", re.I | re.S
)
"""What servers say where prompt and answer together are too long, or the answer alone."""
_SHORTEST = 256
"""The shortest answer in tokens that is asked for: a shorter one would be cut."""


class Answer(NamedTuple):
    """What a model said."""

    text: str
    """Without the thoughts that some models put before it."""
    usage: Usage
    cut: bool
    """Whether the model was stopped before its end."""


class Endpoint:
    """Sends chat completions.

    Args:
        client: `openai.OpenAI` (used from threads) or `openai.AsyncOpenAI`.
        temperature: Of all requests; `None` leaves it to the endpoint.
        max_tokens: The longest answer; `None` leaves it to the endpoint.
        timeout: Seconds for one try; `None`: the client's own.
        concurrency: Threads for a sync client.
        strict: Whether a model that takes no limit of its answer's length ends the run: a budget rests on it.

    Raises:
        ConfigError: `client` has no `chat.completions.create`.
    """

    def __init__(
        self,
        client: Any,
        *,
        temperature: float | None,
        max_tokens: int | None,
        timeout: float | None,
        concurrency: int,
        strict: bool,
    ) -> None:
        from openai import OpenAI

        if not hasattr(getattr(getattr(client, "chat", None), "completions", None), "create"):
            raise ConfigError(f"`client` must be an `openai.OpenAI` or `openai.AsyncOpenAI`, not {client!r}")
        options: dict[str, Any] = {"max_retries": 0} | ({} if timeout is None else {"timeout": timeout})
        self._http = _own_connections(client)
        if self._http is not None:
            options["http_client"] = self._http
        self._client = client.with_options(**options) if hasattr(client, "with_options") else client
        self._threads = ThreadPoolExecutor(concurrency, "apo-writer") if isinstance(client, OpenAI) else None
        self._wanted: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        self._longest = max_tokens or 0
        self._strict = strict
        self._refused: dict[str, set[str]] = {}
        """Model -> options that it does not take."""

    async def close(self) -> None:
        """End threads and connections of this endpoint's own."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._http is not None:
            await self._http.aclose()

    def most(self, model: str, messages: Sequence[Message]) -> Call:
        """The most that one try may take: no token is shorter than a byte."""
        size = sum(len(str(message.get("content", "")).encode()) + _PER_MESSAGE for message in messages)
        return Call(model, size + _PER_REQUEST, self._longest)

    async def ask(self, model: str, messages: Sequence[Message], seed: int, halved: int = 0) -> Answer:
        """One try. `halved`: how often the longest answer is divided by two.

        Raises:
            Fault: no reply, or none with text. Of the kind `option` where the next try will do without one, of the
                kind `length` where it is to be halved once more.
        """
        options = self._options(model, seed, halved)
        try:
            completion = await self._send(model=model, messages=list(messages), **options)
        except Exception as error:  # `fault_of` raises what is no fault of the endpoint
            fault = fault_of(error)
            if fault.kind == "refused" and not fault.fatal:
                longest = next((options[name] for name in _LENGTHS if name in options), 0)
                if not _TOO_LONG.search(fault.fields):
                    self._drop(model, options, fault)
                elif longest // 2 >= _SHORTEST:
                    raise fault.of_length() from error
            raise fault from error
        return _read(completion, messages)

    async def _send(self, **request: Any) -> Any:
        create: Callable[..., Any] = self._client.chat.completions.create
        if self._threads is None:
            return await cast("Awaitable[Any]", create(**request))
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: create(**request))

    # -- options ----------------------------------------------------------------------------------------------------

    def _options(self, model: str, seed: int, halved: int) -> dict[str, Any]:
        refused = self._refused.get(model, set())
        options = {**self._wanted, "seed": seed}
        if halved:
            options["max_tokens"] >>= halved
        if "max_tokens" in refused:  # the newer name, which older servers pass over in silence
            options["max_completion_tokens"] = options["max_tokens"]
        return {name: value for name, value in options.items() if value is not None and name not in refused}

    def _drop(self, model: str, sent: Mapping[str, Any], fault: Fault) -> None:
        """Leave out the option that the endpoint named, from now on; nothing where it named none."""
        refused = self._refused.setdefault(model, set())
        if any(name in refused for name in sent):  # a request that ran beside this one found out
            raise fault.of_option() from fault.__cause__
        for name in _OPTIONS:
            if name not in sent or not re.search(rf"\b{name}\b", fault.fields):
                continue
            if name == "max_completion_tokens" and self._strict:
                message = f"model {model!r} takes no limit of its answer's length, so `tokens` and `cost` can't be kept"
                raise Fault("refused", message, again=False, fatal=True)
            refused.add(name)
            logger.warning("model `%s` refuses `%s`, which is left out from now on: %s", model, name, fault)
            raise fault.of_option() from fault.__cause__


def _own_connections(client: Any) -> DefaultAsyncHttpxClient | None:
    """For an async client that has the HTTP client which `openai` makes; one of the user's own is left to it.

    Connections belong to an event loop. Those of the user's client may be of one that has ended, and those made here
    would be of no use to it after the run.
    """
    import openai

    if not isinstance(client, openai.AsyncOpenAI):
        return None
    made = getattr(client, "_client", None)
    return openai.DefaultAsyncHttpxClient() if type(made).__name__ == "AsyncHttpxClientWrapper" else None


def _read(completion: Any, messages: Sequence[Message]) -> Answer:
    """The text of a chat completion; servers that are merely compatible leave out this and that.

    Raises:
        Fault: there is none.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        raise Fault("malformed", f"the reply has no `choices`: {str(completion)[:100]!r}", billed=True)
    choice: Any = choices[0] if choices else None
    said = _text(getattr(getattr(choice, "message", None), "content", None))
    # Half a surrogate pair, which some servers cut a text to, can't be stored or sent on.
    text = _THOUGHTS.sub("", said).strip().encode(errors="replace").decode()
    usage = _usage(getattr(completion, "usage", None), messages, said)
    if not text:
        raise Fault("empty", "the reply holds no text", usage=usage)
    return Answer(text, usage, getattr(choice, "finish_reason", None) == "length")


def _text(content: Any) -> str:
    if isinstance(content, list):  # parts
        return "".join(str(part.get("text", "")) for part in cast("list[Any]", content) if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(usage: Any, messages: Sequence[Message], said: str) -> Usage:
    """As the endpoint counts; where it does not, one token for four bytes."""
    input_tokens, output_tokens = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
    if not isinstance(input_tokens, int):
        input_tokens = sum(len(str(message.get("content", "")).encode()) for message in messages) // 4
    return Usage(
        input_tokens, output_tokens if isinstance(output_tokens, int) else len(said.encode(errors="replace")) // 4
    )
