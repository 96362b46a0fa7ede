"""`AttemptTrace`: the spans of one attempt on their way to the store.

Tracers add spans to it from any thread; `Tracer.trace_context` sends them to the store in one call when the attempt
ends, unless the runner takes them, to send them with the final status. Two things go earlier, in the background: long
attempts send what they have every `MOST_UNSENT` spans, `MOST_CHARACTERS` of text or `LONGEST_UNSENT_S` seconds, and a
reward goes at once: the store numbers spans on arrival, the gateway writes LLM calls as they happen, and a reward must
lie between the call before it and the call after it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import deque
from typing import Any

from agentlightning.semconv import AGL_REWARD
from agentlightning.store.base import LightningStore
from agentlightning.types import Span

logger = logging.getLogger(__name__)

REWARD_WAIT_S = 5.0
"""Longest time that a thread which emits a reward waits for the store. Beyond it the agent goes on and the reward
follows; only an agent that blocks its event loop while another of its threads emits comes near it."""


MOST_UNSENT = 500
"""Spans; with so many the attempt sends before its end."""
MOST_CHARACTERS = 4_000_000
"""Of text in the attributes of spans; likewise."""
LONGEST_UNSENT_S = 10.0
"""Seconds since the first span that was not sent yet; the next span sends all."""
KEPT = 2_000
"""Spans of an attempt with a store that stay in memory for `get_last_trace`, the latest."""


class AttemptTrace:
    """Spans of one attempt, in the order in which they ended.

    Args:
        rollout_id: Whose spans they are.
        attempt_id: Whose spans they are.
        store: Where they go; `None` keeps them here only.
        loop: The event loop that runs the store's coroutines; needed with `store`.
    """

    def __init__(
        self,
        rollout_id: str,
        attempt_id: str,
        store: LightningStore | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ):
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.spans: list[Span] | deque[Span] = [] if store is None else deque(maxlen=KEPT)
        """What was recorded so far, with `sequence_id` 0 (the store numbers its own copies). See `KEPT`."""
        self._store = store
        self._loop = loop
        self._unsent: list[Span] = []
        self._characters = 0
        """About how many the unsent spans have."""
        self._unsent_since = 0.0
        self._early: concurrent.futures.Future[None] | None = None
        """The flush that is under way because much was unsent."""
        self._closed = False
        self._lock = threading.Lock()
        self._sending = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """True once the attempt has ended: what comes later is not part of it."""
        return self._closed

    def add(self, span: Span, source: Any = None) -> bool:
        """Keep `span` for the next `flush`; False (and not kept) after the end of the attempt.

        Args:
            span: Of this attempt.
            source: What a tracer made it from, if anything.
        """
        with self._lock:
            if self._closed:
                logger.debug("dropped the span `%s` of the ended attempt %s", span.name, self.attempt_id)
                return False
            self.spans.append(span)
            if not self._unsent:
                self._unsent_since = time.monotonic()
            self._unsent.append(span)
            self._characters += _characters(span)
        self._kept(span, source)
        return True

    def record(self, span: Span, source: Any = None) -> None:
        """`add`; if `span` is a reward see that the store has it before the agent's next LLM call."""
        if not self.add(span, source):
            return
        if span.name == AGL_REWARD:
            self._send_reward()
        elif self._much_unsent():
            self._send_early()

    def _kept(self, span: Span, source: Any) -> None:
        """For subclasses: `span` was added."""

    def close(self) -> None:
        """No more spans."""
        with self._lock:
            self._closed = True

    def take(self) -> list[Span]:
        """What was not sent yet; whoever takes it sends it."""
        with self._lock:
            batch, self._unsent, self._characters = self._unsent, [], 0
            return batch

    async def flush(self) -> None:
        """Send what was not sent yet, in one call. If the store raises, the spans stay and the next call retries."""
        async with self._sending:
            if self._store is None or not (batch := self.take()):
                return
            try:
                await self._store.add_many_spans(batch)
            except BaseException:
                with self._lock:
                    self._unsent[:0] = batch
                    self._characters += sum(map(_characters, batch))
                raise

    def _send_reward(self) -> None:
        if self._store is None or self._loop is None:
            return
        sent = asyncio.run_coroutine_threadsafe(self.flush(), self._loop)
        if not _runs_a_loop():
            # An error needs no care here: the spans stay, and the flush at the end of the attempt raises.
            concurrent.futures.wait([sent], timeout=REWARD_WAIT_S)

    def _much_unsent(self) -> bool:
        return (
            len(self._unsent) >= MOST_UNSENT
            or self._characters >= MOST_CHARACTERS
            or time.monotonic() - self._unsent_since >= LONGEST_UNSENT_S
        )

    def _send_early(self) -> None:
        """Send in the background, one call at a time. As above, an error leaves the spans for the next one."""
        if self._store is None or self._loop is None:
            return
        with self._lock:
            if self._early is None or self._early.done():
                self._early = asyncio.run_coroutine_threadsafe(self.flush(), self._loop)


def _characters(span: Span) -> int:
    return sum(len(value) for value in span.attributes.values() if isinstance(value, str))


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
