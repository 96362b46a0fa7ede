"""`Tracer`: says which attempt the running code belongs to, and keeps its spans.

The runner opens `trace_context` around an attempt; emitters ask `get_active_tracer()` for the tracer of the code that
runs them. Both live in context variables, so many attempts run in one process, in threads or tasks, without mixing.
This class records what the emitters say; `OtelTracer` records OpenTelemetry spans as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

from agentlightning.semconv import LightningResourceAttributes, attempt_trace_id
from agentlightning.store.base import LightningStore
from agentlightning.types import ParallelWorkerBase, Span, SpanCoreFields, SpanRecordingContext, TraceStatus

from .attributes import flatten_attributes
from .recording import SpanRecord
from .trace import AttemptTrace

logger = logging.getLogger(__name__)

R = TypeVar("R")

_active_tracer: ContextVar[Tracer | None] = ContextVar("agentlightning_tracer", default=None)
_current_trace: ContextVar[AttemptTrace | None] = ContextVar("agentlightning_trace", default=None)


def get_active_tracer() -> Tracer | None:
    """The tracer of the attempt that this code runs in, or `None` outside of any."""
    return _active_tracer.get()


def get_current_trace() -> AttemptTrace | None:
    """The trace of the attempt that this code runs in, or of the one that ended last in this context."""
    return _current_trace.get()


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


class Tracer(ParallelWorkerBase):
    """Records the spans that emitters make. One object serves any number of attempts at once."""

    trace_type: ClassVar[type[AttemptTrace]] = AttemptTrace
    """For subclasses: what `trace_context` gives."""
    _store: LightningStore | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        """Take the store that `trace_context` uses if it is given none. Runners give one each time instead."""
        super().init_worker(worker_id)
        self._store = store

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Let go of the store."""
        super().teardown_worker(worker_id)
        self._store = None

    @contextlib.contextmanager
    def lifespan(self, store: LightningStore | None = None) -> Generator[None, None, None]:
        """From `init` to `teardown` for a program that uses the tracer without a runner."""
        self.init()
        self.init_worker(0, store)
        try:
            yield
        finally:
            self.teardown_worker(0)
            self.teardown()

    # -- an attempt -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AsyncGenerator[AttemptTrace, None]:
        """Spans made by the code within belong to this attempt; on the way out they are sent to `store` in one call.

        Args:
            name: For the reader of logs; not stored.
            store: Where the spans go; `None`: the store of `lifespan`, and without one only to `get_last_trace`.
            rollout_id: Whose spans they are; with `attempt_id` needed if there is a store.
            attempt_id: Whose spans they are.

        Raises:
            ValueError: this context is within an attempt already, or a store is given without ids.
        """
        if store is not None and (rollout_id is None or attempt_id is None):
            raise ValueError("`trace_context` with a `store` needs `rollout_id` and `attempt_id`")
        if store is None and rollout_id is not None and attempt_id is not None:
            store = self._store
        local = _local_id()
        trace = self.trace_type(rollout_id or local, attempt_id or local, store, asyncio.get_running_loop())
        try:
            with self._recording(trace):
                yield trace
        finally:
            await trace.flush()

    def trace_run(self, func: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """Call a function; the spans made in it stay with the tracer, see `get_last_trace`."""
        with self._recording(self.trace_type(_local_id(), _local_id())):
            return func(*args, **kwargs)

    async def trace_run_async(self, func: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> R:
        """`trace_run` for a coroutine function."""
        with self._recording(self.trace_type(_local_id(), _local_id())):
            return await func(*args, **kwargs)

    def get_last_trace(self) -> list[Span]:
        """The spans of the attempt that this code runs in, or of the one that ended last in this context."""
        trace = _current_trace.get()
        return list(trace.spans) if trace is not None else []

    def get_langchain_handler(self) -> Any:
        """`None`: the gateway records LLM calls, `OtelTracer(instrument=["langchain"])` what else LangChain does."""
        _say_there_is_no_handler(type(self).__name__)

    # -- spans ------------------------------------------------------------------------------------------------------

    def create_span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
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
        at = time.time() if timestamp is None else timestamp
        status = status or TraceStatus(status_code="OK")
        flat = flatten_attributes(attributes or {})
        return self._keep(SpanCoreFields(name=name, attributes=flat, start_time=at, end_time=at, status=status))

    @contextlib.contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[SpanRecordingContext, None, None]:
        """A span with a duration around the block; an exception that leaves the block is recorded and goes on.

        Args:
            name: What happens, see `semconv`.
            attributes: Nested mappings are flattened to dotted keys.
            start_time: Seconds since the epoch; now if not given.
            end_time: Seconds since the epoch; when the block ends if not given.

        Raises:
            RuntimeError: this code runs outside of any attempt.
        """
        self._trace()
        record = SpanRecord(name, attributes, start_time)
        try:
            with record.running(end_time):
                yield record
        finally:
            self._keep(record.get_recorded_span())

    # -- for subclasses ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _attached(self, trace: AttemptTrace) -> Generator[None, None, None]:
        """What has to be in place while the attempt runs."""
        yield

    def _trace(self) -> AttemptTrace:
        trace = _current_trace.get()
        if trace is None or _active_tracer.get() is None:
            raise RuntimeError("no attempt runs in this context; use `async with tracer.trace_context(...)`")
        return trace

    @contextlib.contextmanager
    def _recording(self, trace: AttemptTrace) -> Generator[None, None, None]:
        set_active_tracer(self)
        _current_trace.set(trace)  # stays set afterwards, for `get_last_trace`
        try:
            with self._attached(trace):
                yield
        finally:
            clear_active_tracer()
            trace.close()

    def _keep(self, core: SpanCoreFields) -> SpanCoreFields:
        trace = self._trace()
        span = Span.create(
            core.name,
            rollout_id=trace.rollout_id,
            attempt_id=trace.attempt_id,
            trace_id=attempt_trace_id(trace.rollout_id, trace.attempt_id),
            attributes=core.attributes,
            start_time=core.start_time,
            end_time=core.end_time,
            status=core.status,
        )
        span.resource.attributes = {LightningResourceAttributes.TRACER_NAME.value: type(self).__name__}
        trace.record(span)
        return core


@functools.cache
def _say_there_is_no_handler(tracer: str) -> None:
    """Once in a process: agents written for 0.3 ask in every rollout."""
    logger.warning(
        "`%s` has no LangChain handler; LLM calls are recorded by the gateway, and the rest with"
        ' `OtelTracer(instrument=["langchain"])`',
        tracer,
    )


def _local_id() -> str:
    return f"local-{secrets.token_hex(6)}"
