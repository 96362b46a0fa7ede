"""`Tracer`: says which attempt the running code belongs to, and keeps its spans.

The runner opens `trace_context` around an attempt; emitters ask `get_active_tracer()` for the tracer of the code that
runs them. Both live in context variables, so many attempts run in one process, in threads or tasks, without mixing.
This class records what the emitters say; `OtelTracer` records OpenTelemetry spans as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextvars import ContextVar
from typing import Any

from agentlightning.semconv import LightningResourceAttributes, attempt_trace_id
from agentlightning.store.base import LightningStore
from agentlightning.types import Span, SpanCoreFields, TraceStatus

from .attributes import flatten_attributes
from .trace import AttemptTrace

_active_tracer: ContextVar[Tracer | None] = ContextVar("agentlightning_tracer", default=None)
_current_trace: ContextVar[AttemptTrace | None] = ContextVar("agentlightning_trace", default=None)


def get_active_tracer() -> Tracer | None:
    """The tracer of the attempt that this code runs in, or `None` outside of any."""
    return _active_tracer.get()


def set_active_tracer(tracer: Tracer) -> None:
    """Make `tracer` the active one in this context.

    Raises:
        ValueError: another one is active.
    """
    if _active_tracer.get() is not None:
        raise ValueError("a tracer is active in this context already; leave its `trace_context` first")
    _active_tracer.set(tracer)


def clear_active_tracer() -> None:
    """No tracer is active in this context from now on."""
    _active_tracer.set(None)


class Tracer:
    """Records the spans that emitters make. One object serves any number of attempts at once."""

    @contextlib.asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        store: LightningStore | None = None,
    ) -> AsyncGenerator[AttemptTrace, None]:
        """Spans made by the code within belong to this attempt; on the way out they are sent to `store` in one call.

        Args:
            name: For the reader of logs; not stored.
            rollout_id: Whose spans they are; with `attempt_id` needed if there is a store.
            attempt_id: Whose spans they are.
            store: Where the spans go; `None` keeps them for `get_last_trace`.

        Raises:
            ValueError: this context is within an attempt already, or a store is given without ids.
        """
        if store is not None and (rollout_id is None or attempt_id is None):
            raise ValueError("`trace_context` with a `store` needs `rollout_id` and `attempt_id`")
        local = f"local-{secrets.token_hex(6)}"
        trace = AttemptTrace(rollout_id or local, attempt_id or local, store, asyncio.get_running_loop())
        set_active_tracer(self)
        _current_trace.set(trace)  # stays set afterwards, for `get_last_trace`
        try:
            with self._attached(trace):
                yield trace
        finally:
            clear_active_tracer()
            trace.close()
            await trace.flush()

    def create_span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span without duration in the attempt that this code runs in.

        Args:
            name: What happened, see `semconv`.
            attributes: Nested mappings are flattened to dotted keys.
            timestamp: Seconds since the epoch; now if not given.
            status: `OK` if not given.

        Raises:
            RuntimeError: this code runs outside of any attempt.
        """
        trace = self._trace()
        at = time.time() if timestamp is None else timestamp
        span = Span.create(
            name,
            rollout_id=trace.rollout_id,
            attempt_id=trace.attempt_id,
            trace_id=attempt_trace_id(trace.rollout_id, trace.attempt_id),
            attributes=flatten_attributes(attributes or {}),
            start_time=at,
            end_time=at,
            status=status,
        )
        span.resource = {LightningResourceAttributes.TRACER_NAME.value: type(self).__name__}
        trace.record(span)
        return span

    def get_last_trace(self) -> list[Span]:
        """The spans of the attempt that this code runs in, or of the one that ended last in this context."""
        trace = _current_trace.get()
        return list(trace.spans) if trace is not None else []

    def _trace(self) -> AttemptTrace:
        trace = _current_trace.get()
        if trace is None or _active_tracer.get() is None:
            raise RuntimeError("no attempt runs in this context; use `async with tracer.trace_context(...)`")
        return trace

    @contextlib.contextmanager
    def _attached(self, trace: AttemptTrace) -> Generator[None, None, None]:
        """For subclasses: what has to be in place while the attempt runs."""
        yield
