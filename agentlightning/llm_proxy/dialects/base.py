"""What the gateway needs of a dialect: how requests, answers, streams and errors of an interface look.

Implemented by the other files of this folder; used by `app` and `gateway`. Every dialect is an `Interface`; those that
a backend need not speak, because they can be written as chat completions and back, are `Translated` as well.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from agentlightning.types import RequestError

from ..backend import Dialect, Json


class Interface(Protocol):
    """One dialect, as the gateway's callers speak it."""

    @property
    def name(self) -> Dialect:
        """Which one it is."""
        ...

    @property
    def path(self) -> str:
        """Behind the base URL, as in `/chat/completions`."""
        ...

    @property
    def limits(self) -> tuple[str, ...]:
        """The request's fields that bound the length of an answer; the first is set where an agent sets none."""
        ...

    @property
    def tail(self) -> bytes:
        """What follows the last event of a stream."""
        ...

    def check(self, body: Json) -> None:
        """Refuse what the gateway itself could not handle. Everything else is the backend's business.

        Raises:
            RequestError: 400 naming the field.
        """
        ...

    def answer_to_chat(self, response: Json) -> Json:
        """A backend's own answer in this dialect, as a chat completion: what spans and the ledger are made from."""
        ...

    def frame(self, event: Json) -> bytes:
        """A chunk or event as a server-sent event."""
        ...

    def is_end(self, event: Json) -> bool:
        """Whether `event` says that the answer, or one of its choices, is complete. Held back until it is on record."""
        ...

    def error(self, error: RequestError) -> dict[str, Any]:
        """An error as this interface shows it; in a stream it is `frame`d as an event."""
        ...


class Translator(Protocol):
    """Writes one streamed answer in another dialect: chunks of `chat` in, events of the dialect out."""

    def feed(self, chunk: Json) -> list[Json]:
        """The events that a `chat.completion.chunk` stands for. None of those that end the answer is among them."""
        ...

    def end(self, response: Json) -> list[Json]:
        """The events that end the answer, from the whole `chat.completion`; sent when the call is on record."""
        ...


@runtime_checkable
class Translated(Interface, Protocol):
    """A dialect that is translated to and from `chat` for backends that do not speak it."""

    def to_chat(self, body: Json) -> Json:
        """The request as a chat completion request (a new dictionary), with `stream` as it was.

        Raises:
            RequestError: 400 naming what chat completions can't express.
        """
        ...

    def from_chat(self, body: Json, response: Json) -> Json:
        """The answer to `body`, from that of its chat completion."""
        ...

    def translator(self, body: Json) -> Translator:
        """A new translator for the streamed answer to `body`."""
        ...


@contextmanager
def well_formed() -> Generator[None]:
    """For code that reads an answer: what is not of the form that the API has is the backend's fault.

    Raises:
        RequestError: 502, instead of the error that a field of another type or none gave.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the backend's answer is malformed: {error!r}", status=502) from error
