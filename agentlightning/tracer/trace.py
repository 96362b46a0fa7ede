"""`AttemptTrace`: the spans of one attempt on their way to the store.

Tracers add spans to it from any thread; `Tracer.trace_context` sends them to the store in one call when the attempt
ends. Only a reward goes at once: the store numbers spans on arrival, the gateway writes LLM calls as they happen, and
a reward must lie between the call before it and the call after it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading

from agentlightning.semconv import AGL_REWARD
from agentlightning.store.base import LightningStore
from agentlightning.types import Span

logger = logging.getLogger(__name__)

REWARD_WAIT_S = 5.0
"""Longest time that a thread which emits a reward waits for the store. Beyond it the agent goes on and the reward
follows; only an agent that blocks its event loop while another of its threads emits comes near it."""


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
        self.spans: list[Span] = []
        """Everything recorded so far, with `sequence_id` 0 (the store numbers its own copies)."""
        self._store = store
        self._loop = loop
        self._unsent: list[Span] = []
        self._closed = False
        self._lock = threading.Lock()
        self._sending = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """True once the attempt has ended: what comes later is not part of it."""
        return self._closed

    def add(self, span: Span) -> bool:
        """Keep `span` for the next `flush`; False (and not kept) after the end of the attempt."""
        with self._lock:
            if self._closed:
                logger.debug("dropped the span `%s` of the ended attempt %s", span.name, self.attempt_id)
                return False
            self.spans.append(span)
            self._unsent.append(span)
            return True

    def record(self, span: Span) -> None:
        """`add`, and if `span` is a reward see that the store has it before the agent's next LLM call."""
        if self.add(span) and span.name == AGL_REWARD:
            self._send_soon()

    def close(self) -> None:
        """No more spans."""
        with self._lock:
            self._closed = True

    async def flush(self) -> None:
        """Send what was not sent yet, in one call. If the store raises, the spans stay and the next call retries."""
        async with self._sending:
            with self._lock:
                batch, self._unsent = self._unsent, []
            if not batch or self._store is None:
                return
            try:
                await self._store.add_many_spans(batch)
            except BaseException:
                with self._lock:
                    self._unsent[:0] = batch
                raise

    def _send_soon(self) -> None:
        if self._store is None or self._loop is None:
            return
        sent = asyncio.run_coroutine_threadsafe(self.flush(), self._loop)
        if not _runs_a_loop():
            # An error needs no care here: the spans stay, and the flush at the end of the attempt raises.
            concurrent.futures.wait([sent], timeout=REWARD_WAIT_S)


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
