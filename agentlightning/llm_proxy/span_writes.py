"""`write`: the spans of several calls in one write, each call with its own outcome. Used by `recorder`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agentlightning.store.base import LightningStore
from agentlightning.store.rows import span_row
from agentlightning.store.wire import SPANS, dump_spans, parse
from agentlightning.types import LeaseLostError, NotFoundError, Span, StoreClosedError, StoreUnavailableError

from .spool import AttemptKey, Entry

AWAY = (StoreUnavailableError, ConnectionError, TimeoutError)
"""What a store that can't be reached raises."""


@dataclass(slots=True, eq=False)
class Call:
    """The spans of one call on their way to the store."""

    key: AttemptKey
    spans: list[Span]
    told: asyncio.Future[None] | None = None
    """Its caller, who waits; `None` for one that comes from the spool."""
    number: int | None = None
    """Its place in the spool, if it is there."""
    ended: bool = False
    """Whether the store has taken or refused it."""
    error: Exception | None = None
    """Why it was refused."""

    def end(self, error: Exception | None = None) -> None:
        """The store has taken it, or never will."""
        self.ended, self.error = True, error
        self.tell(error)

    def tell(self, error: Exception | None = None) -> None:
        """Let the caller go on, unless it was told before or went away."""
        if self.told is None or self.told.done():
            return
        if error is None:
            self.told.set_result(None)
        else:
            self.told.set_exception(error)


def encode(spans: Sequence[Span]) -> bytes:
    """Spans as the spool holds them. Raises `ValueError` or `TypeError` for one that no store would take."""
    for span in spans:
        span_row(span)
    return dump_spans(spans)


def read(entry: Entry) -> Call:
    """A call from the spool; it has ended already if it can't be read."""
    call = Call((entry.rollout_id, entry.attempt_id), [], number=entry.number)
    try:
        call.spans = parse(SPANS, entry.spans)
    except ValueError as error:  # somebody wrote in the file
        call.end(ValueError(f"call {entry.number} in the spool can't be read: {error}"))
    return call


async def write(store: LightningStore, calls: list[Call]) -> None:
    """Write calls together; if the store refuses that, find out whose spans it is and write the others.

    Raises:
        StoreUnavailableError, ConnectionError, TimeoutError, StoreClosedError: the store can't be had. Calls that have
            not ended then may be stored or not.
        Exception: a call in the spool failed for what is no refusal of its spans. Its agent has the answer, so it must
            not get lost.
    """
    if not calls:
        return
    try:
        await store.add_many_spans([span for call in calls for span in call.spans])
    except (*AWAY, StoreClosedError):
        raise
    except Exception as error:
        parts = _apart(calls, error)
        if not parts:
            if not _is_refusal(error) and any(call.number is not None for call in calls):
                raise
            for call in calls:
                call.end(error)
    else:
        parts = []
        for call in calls:
            call.end()
    for part in parts:
        await write(store, part)


def _apart(calls: list[Call], error: Exception) -> list[list[Call]]:
    """Smaller writes that tell whose spans are refused; none if that is known: those of all `calls`.

    A write is stored as a whole or not at all. `LeaseLostError` names attempts; else the calls are halved, in order.
    """
    keys = dict.fromkeys(call.key for call in calls)
    lost = [key for key in keys if isinstance(error, LeaseLostError) and key in error.attempts]
    if len(calls) == 1 or (lost and len(keys) == 1):
        return []
    if not lost:
        half = len(calls) // 2
        return [calls[:half], calls[half:]]
    # Each lost attempt by itself, so that its callers get the message that is about it.
    others = [call for call in calls if call.key not in lost]
    return [others, *([call for call in calls if call.key == key] for key in lost)]


def _is_refusal(error: Exception) -> bool:
    """Whether the store says that these spans can never be stored.

    Of `ValueError` and `TypeError` only they themselves: subclasses can mean a wrong token, or an answer that is no
    JSON.
    """
    return isinstance(error, (LeaseLostError, NotFoundError)) or type(error) in (ValueError, TypeError)
