"""One request as handlers see it, one answer as they give it, and the table entry that joins a path to a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

from pydantic import TypeAdapter

from ..base import LightningStore
from ..wire import parse
from .bodies import Body

B = TypeVar("B", bound=Body)
T = TypeVar("T")
JSON = "application/json"
NULL = b"null"


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = JSON


class ClientGone(Exception):
    """The client went away while its request waited; there is nobody to answer."""


def close_unawaited(work: Awaitable[Any]) -> None:
    """Let go of work that will not be awaited, without the warning that it never was."""
    if hasattr(work, "close"):
        work.close()  # type: ignore[attr-defined]


async def refuse_to_wait(work: Awaitable[Any]) -> Any:
    """`Call.wait` of requests that can't wait."""
    close_unawaited(work)
    raise ValueError("`timeout` must be 0 within a batch; send a request that waits by itself")


@dataclass(slots=True)
class Call:
    """A request: the `params` of its path, its `query` string, its `body`, its headers by lower-case name."""

    params: tuple[str, ...] = ()
    query: bytes = b""
    body: bytes = b""
    key: str | None = None
    """The `Idempotency-Key`."""
    headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    wait: Callable[[Awaitable[Any]], Awaitable[Any]] = refuse_to_wait
    """Awaits something that may take long: ends it when the client goes away or the server stops."""

    def read(self, model: type[B]) -> B:
        """The JSON body as a model; an empty body is an empty object. Raises `ValidationError`."""
        return parse(adapter_of(model), self.body or b"{}")

    def read_query(self, model: type[B]) -> B:
        """The query string as a model; fields named `*_in` take every value given. Raises `ValidationError`."""
        values = parse_qs(self.query.decode("latin-1"), keep_blank_values=True)
        return model.model_validate({name: v if name.endswith("_in") else v[-1] for name, v in values.items()})


@cache
def adapter_of(kind: type[T]) -> TypeAdapter[T]:
    """The one `TypeAdapter` of a type; building it is slow."""
    return TypeAdapter(kind)


Handler = Callable[[LightningStore, Call], Awaitable[bytes | Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the server.

    `body`, `query` and `answer` are the types that the OpenAPI document shows; handlers read them themselves.
    """

    method: str
    path: str
    """With names in braces for the parts that vary: `/v1/agl/rollouts/{rollout_id}`."""
    operation: str
    """Name of the operation: of the store's method, where there is one."""
    handle: Handler
    body: Any = None
    query: Any = None
    answer: Any = None
    status: int = 200
    content: tuple[str, ...] = (JSON,)
    """Content types of the body."""
    answer_content: tuple[str, ...] = (JSON,)
