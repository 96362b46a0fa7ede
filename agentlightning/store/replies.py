"""Idempotency: a request that is sent twice under one key is done once.

A client whose connection broke can't know whether its request arrived. It sends it again under the same key
(`keyed`, over HTTP the header `Idempotency-Key`). The first time, the home does the operation and records its result
in the same transaction; after that it gives the recorded result. `home` wraps its operations in `once`; `recordings`
says what of a result has to be written down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, NamedTuple, TypeVar

import orjson

from agentlightning.types import ConflictError

from .ledger import Ledger

R = TypeVar("R")

REPLY_SECONDS: Final = 600.0
"""How long a reply is kept; no client goes on trying for that long."""

request_key: ContextVar[str | None] = ContextVar("request_key", default=None)
"""The key of the request that this task serves, if it has one."""


@contextmanager
def keyed(key: str | None) -> Generator[None]:
    """Within this, calls of a store are one request with that key; `None`: without one."""
    token = request_key.set(key)
    try:
        yield
    finally:
        request_key.reset(token)


class Form(NamedTuple, Generic[R]):
    """How a result is written down, and read back for somebody who asks with the same arguments."""

    note: Callable[[R], Any]
    """The result as JSON values; `None` if it is not worth recording."""
    read: Callable[[Ledger, Any], R]


class Reply(NamedTuple):
    """What is recorded under a key."""

    name: str
    """Of the method."""
    arguments: str | None
    """Digest of its arguments; `None` for any."""
    result: Any


def read_reply(ledger: Ledger, key: str) -> Reply | None:
    text = ledger.reply(key)
    return None if text is None else Reply(*orjson.loads(text))


def write_reply(ledger: Ledger, key: str, reply: Reply, now: float) -> None:
    ledger.save_reply(key, orjson.dumps(list(reply)).decode(), now)


def once(
    name: str, arguments: Any, form: Form[R], operation: Callable[[Ledger], R], now: Callable[[], float]
) -> Callable[[Ledger], R]:
    """`operation`, done only once under the key of the present request; itself where there is no key.

    Args:
        name: Of the method.
        arguments: All that the result depends on: JSON values and named tuples of them.
        form: How the result is recorded.
        operation: What to do.
        now: The store's clock.

    Raises (when it runs):
        ConflictError: the key was used for another method or with other arguments.
    """
    key = request_key.get()
    if key is None:
        return operation
    digest = hashlib.blake2b(orjson.dumps(arguments, default=list), digest_size=9).hexdigest()

    def do_once(ledger: Ledger) -> R:
        reply = read_reply(ledger, key)
        if reply is not None:
            _check(reply, key, name, digest)
            return form.read(ledger, reply.result)
        result = operation(ledger)
        noted = form.note(result)
        if noted is not None:
            write_reply(ledger, key, Reply(name, digest, noted), now())
        return result

    return do_once


def _check(reply: Reply, key: str, name: str, digest: str) -> None:
    if reply.name != name or reply.arguments not in (None, digest):
        what = "with other arguments" if reply.name == name else f"not for `{name}`"
        raise ConflictError(f"idempotency key {key!r} was used for `{reply.name}`, {what}; give each request a new key")
