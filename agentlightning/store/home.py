"""`LedgerStore`: everything that the homes share. Encodes arguments, runs an operation, decodes its rows. What only
reads is in `ledger_queries`.

`memory` and `sql` say where an operation runs (`_run`). Values are encoded and decoded in the caller's thread, so that
a wrong one is refused before anything happens and the home is kept busy no longer than needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Final, Literal, cast, get_args

from agentlightning.types import (
    TERMINAL_ATTEMPT,
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    NamedResources,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    TaskInput,
    Worker,
)

from . import operations, overdue, recordings, registry, span_operations
from .base import UNSET, LightningStoreCapabilities, LightningStoreStatistics, Unset, require_own_spans
from .clock import Clock
from .codec import encode
from .ledger import Ledger
from .ledger_queries import LedgerQueries, Operation, R
from .query import LARGEST
from .replies import REPLY_SECONDS, Form, once, request_key
from .rows import (
    AttemptRow,
    Draft,
    SpanRow,
    attempt_model,
    attempted_model,
    encode_config,
    encode_optional,
    encode_resources,
    resources_model,
    rollout_model,
    span_row,
    worker_model,
)
from .waits import Waits
from .watchdog import Watchdog

SHORTEST_INTERVAL: Final = 0.1
"""Seconds between scans where upstream's `scan_debounce_seconds=0` asks for as many as there may be."""
LEAST_GAP: Final = 5.0
"""Seconds; a shorter delay of a scan is no gap, whatever the interval."""
HOUSEKEEPING: Final = 10
"""Scans from one housekeeping (old replies, retention) to the next."""
TRIM_AT_ONCE: Final = 128
"""How many rollouts one operation drops; bounds how long it keeps the home busy."""


class LedgerStore(LedgerQueries):
    """A store whose rows are in a `Ledger` of this process."""

    def __init__(
        self,
        *,
        scan_interval: float = 1.0,
        worker_timeout: float | None = 60.0,
        retention: int | None = None,
        scan_debounce_seconds: float | None = None,
    ) -> None:
        """Homes call this first.

        Args:
            scan_interval: Seconds between the scans for overdue attempts.
            worker_timeout: Seconds after which a worker that has sent heartbeats and then none is taken for gone, and
                its attempts end; `None`: never.
            retention: How many ended rollouts the scan keeps; `None`: all.
            scan_debounce_seconds: Upstream's name for `scan_interval`; 0 is its shortest.

        Raises:
            ValueError: one of them is negative, or `scan_interval` 0.
        """
        if scan_debounce_seconds is not None:
            scan_interval = max(scan_debounce_seconds, SHORTEST_INTERVAL) if scan_debounce_seconds >= 0 else -1.0
        if worker_timeout is not None and not worker_timeout > 0:
            raise ValueError(
                f"`worker_timeout` is {worker_timeout}; give seconds (more than 0), or `None` for no limit"
            )
        if retention is not None and retention < 0:
            raise ValueError(f"`retention` is {retention}; give how many ended rollouts to keep (0 or more)")
        self._waits = Waits()
        self._watchdog = Watchdog(self, scan_interval)
        self._worker_timeout = worker_timeout
        self._retention = retention
        self._scans = 0
        self._set_clock(Clock())

    def _set_clock(self, clock: Clock) -> None:
        """Homes whose database has a clock of its own say so before they begin to work."""
        self._clock = clock
        self._opened_at = self._listening_since = self._last_scan = clock.now()

    def _watch(self) -> None:
        """Begin to scan in the background. A home ends that first thing in `close`, with `self._watchdog.close()`."""
        self._watchdog.start()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {"thread_safe": True, "async_safe": True, "zero_copy": False, "otlp_traces": False}

    def _once(self, name: str, arguments: Any, form: Form[R], operation: Operation[R]) -> Operation[R]:
        """The operation, which does nothing a second time where the request has a key."""
        return once(name, arguments, form, operation, self._clock.now)

    # -- rollouts ---------------------------------------------------------------------------------------------------

    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        _name("worker_id", worker_id)
        draft = _draft(
            EnqueueRolloutRequest(input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata)
        )
        start = self._once(
            "start_rollout",
            (draft, worker_id),
            recordings.started(draft, worker_id),
            lambda ledger: operations.start_rollout(ledger, draft, worker_id, self._clock.now()),
        )
        self._watch()
        return attempted_model(*await self._run(start))

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        drafts = [_draft(request) for request in rollouts]
        create = self._once(
            "enqueue_many_rollouts",
            drafts,
            recordings.created(drafts),
            lambda ledger: operations.create(ledger, drafts, self._clock.now()),
        )
        return [rollout_model(row, None) for row in await self._run(create)]

    async def dequeue_many_rollouts(
        self, limit: int = 1, worker_id: str | None = None, timeout: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        if not 1 <= limit <= LARGEST:
            raise ValueError(f"`limit` is {limit}; give how many rollouts to take (1 to {LARGEST})")
        _name("worker_id", worker_id)
        _not_nan("timeout", timeout)
        self._watch()
        deadline = time.monotonic() + timeout
        taken = await self._take(limit, worker_id)
        while not taken and (left := deadline - time.monotonic()) > 0:
            with self._waits.queue() as wait:
                taken = await self._take(limit, worker_id)
                if not taken:
                    await wait.until(left)
                    # What fires the wait from here on may be missed by this look: another waiter has to see it.
                    woken = wait.fired
                    taken = await self._take(limit, worker_id)
                    wait.seen = woken
        return [attempted_model(row, attempt) for row, attempt in taken]

    async def _take(self, limit: int, worker_id: str | None) -> list[operations.AttemptedRow]:
        take = self._once(
            recordings.DEQUEUE,
            (limit, worker_id),
            recordings.dequeued(worker_id),
            lambda ledger: operations.dequeue(ledger, limit, worker_id, self._clock.now()),
        )
        key = request_key.get()

        def undo(taken: list[operations.AttemptedRow]) -> Operation[None]:
            return lambda ledger: recordings.undo_dequeue(ledger, taken, key, self._clock.now())

        return await self._run(take, undo)

    async def release_rollouts(self, key: str) -> int:
        return await self._run(lambda ledger: recordings.release(ledger, key, self._clock.now()))

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        _name("worker_id", worker_id)
        start = self._once(
            "start_attempt",
            (rollout_id, worker_id),
            recordings.begun(worker_id),
            lambda ledger: operations.start_attempt(ledger, rollout_id, worker_id, self._clock.now()),
        )
        self._watch()
        return attempted_model(*await self._run(start))

    async def update_rollout(
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        changes: dict[str, Any] = {}
        if not isinstance(input, Unset):
            changes["input"] = encode("input", input)
        if not isinstance(mode, Unset):
            _one_of("mode", mode, (None, *get_args(RolloutMode)))
            changes["mode"] = mode
        if not isinstance(resources_id, Unset):
            changes["resources_id"] = resources_id
        if not isinstance(status, Unset):
            _one_of("status", status, get_args(RolloutStatus))
        if not isinstance(config, Unset):
            changes["config"] = encode_config(config)
        if not isinstance(metadata, Unset):
            changes["metadata"] = encode_optional("metadata", metadata)
        update = self._once(
            "update_rollout",
            (rollout_id, changes, None if isinstance(status, Unset) else status),
            recordings.changed(rollout_id),
            lambda ledger: operations.update_rollout(ledger, rollout_id, changes, status, self._clock.now()),
        )
        return rollout_model(*await self._run(update))

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        changes: dict[str, Any] = {}
        if not isinstance(status, Unset):
            _one_of("status", status, get_args(AttemptStatus))
        if not isinstance(worker_id, Unset):
            _name("worker_id", worker_id)
            changes["worker_id"] = worker_id
        if not isinstance(last_heartbeat_time, Unset):
            changes["last_heartbeat_time"] = _seconds("last_heartbeat_time", last_heartbeat_time)
        if not isinstance(metadata, Unset):
            changes["metadata"] = encode_optional("metadata", metadata)

        def update(ledger: Ledger) -> AttemptRow:
            return operations.update_attempt(ledger, rollout_id, attempt_id, changes, status, self._clock.now())

        if attempt_id != "latest":  # doing it twice changes nothing more
            return attempt_model(await self._run(update))
        # The second time, the latest may be another one.
        arguments = (rollout_id, changes, None if isinstance(status, Unset) else status)
        once_only = self._once("update_attempt", arguments, recordings.changed_attempt(rollout_id), update)
        return attempt_model(await self._run(once_only))

    async def end_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus,
        spans: Sequence[Span] = (),
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        if not (self._does_our_way("add_many_spans") and self._does_our_way("update_attempt")):
            return await super().end_attempt(rollout_id, attempt_id, status, spans, metadata)
        _one_of("status", status, sorted(TERMINAL_ATTEMPT))
        require_own_spans(rollout_id, attempt_id, spans)
        rows = [span_row(span) for span in spans]
        changes = {} if isinstance(metadata, Unset) else {"metadata": encode_optional("metadata", metadata)}
        return attempt_model(
            await self._run(
                lambda ledger: span_operations.end_attempt(
                    ledger, rollout_id, attempt_id, rows, changes, status, self._clock.now()
                )
            )
        )

    async def expire_attempts(self, now: float | None = None) -> list[Attempt]:
        if now is None:
            now = self._clock.now()
            self._note_gap(now)
        watch = overdue.Watch(now, self._listening_since, self._worker_timeout)
        return [attempt_model(row) for row in await self._run(lambda ledger: overdue.expire(ledger, watch))]

    async def scan(self) -> None:
        """What has to be done from time to time; the watchdog calls this."""
        now = self._clock.now()
        await self.expire_attempts()
        self._last_scan = now
        self._scans += 1
        if self._scans % HOUSEKEEPING == 0:
            await self._run(lambda ledger: ledger.drop_replies(now - REPLY_SECONDS))
            if self._retention is not None:
                await self.trim(self._retention)

    def _note_gap(self, now: float) -> None:
        """Begin to listen anew where the last scan was long ago: the process, the machine or the database stood still,
        and who was silent meanwhile may be alive."""
        if now - self._last_scan > self._watchdog.interval + max(3 * self._watchdog.interval, LEAST_GAP):
            self._listening_since = self._last_scan = now

    async def trim(self, retention: int) -> int:
        if retention < 0:
            raise ValueError(f"`retention` is {retention}; give how many ended rollouts to keep (0 or more)")
        dropped, last = 0, TRIM_AT_ONCE
        while last == TRIM_AT_ONCE:
            last = await self._run(
                lambda ledger: operations.trim(ledger, retention, TRIM_AT_ONCE, self._waits.awaited())
            )
            dropped += last
        return dropped

    async def wait_for_rollouts(self, *, rollout_ids: Sequence[str], timeout: float | None = None) -> list[Rollout]:
        ids = list(dict.fromkeys(rollout_ids))
        _not_nan("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._waits.ends(ids) as wait:
                done, open_ids = await self._run(lambda ledger: operations.finished(ledger, ids))
                left = None if deadline is None else deadline - time.monotonic()
                if not open_ids or (left is not None and left <= 0):
                    by_id = {pair[0].rollout_id: pair for pair in done}
                    return [rollout_model(*by_id[rollout_id]) for rollout_id in ids if rollout_id in by_id]
                self._waits.settled(wait, set(ids) - open_ids)
                await wait.until(left)

    def _does_our_way(self, method: str) -> bool:
        """Whether a method is the one of this class: a user's subclass may do it in another way."""
        return getattr(getattr(self, method), "__func__", None) is getattr(LedgerStore, method)

    # -- spans ------------------------------------------------------------------------------------------------------

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        stored = await self.add_span_rows([span_row(span) for span in spans])
        given = {(span.rollout_id, span.attempt_id, span.span_id): span for span in reversed(spans)}
        return [
            given[row.rollout_id, row.attempt_id, row.span_id].model_copy(update={"sequence_id": row.sequence_id})
            for row in stored
        ]

    async def add_span_rows(self, rows: Sequence[SpanRow]) -> list[SpanRow]:
        """As `add_many_spans`; for the server, which has rows before it has models."""
        return await self._run(lambda ledger: span_operations.add_spans(ledger, rows, self._clock.now()))

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        keys = list(rollout_attempt_ids)
        return await self._run(lambda ledger: span_operations.reserve_sequence_ids(ledger, keys))

    # -- resources --------------------------------------------------------------------------------------------------

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        text = encode_resources(resources)
        return await self._write_resources("add_resources", None, text)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        text = encode_resources(resources)
        return await self._write_resources("update_resources", resources_id, text)

    async def _write_resources(self, name: str, resources_id: str | None, text: str) -> ResourcesUpdate:
        write = self._once(
            name,
            (resources_id, text),
            recordings.written(text),
            lambda ledger: registry.write_resources(ledger, resources_id, text, self._clock.now()),
        )
        return resources_model(await self._run(write))

    # -- workers ----------------------------------------------------------------------------------------------------

    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET) -> Worker:
        _name("worker_id", worker_id, optional=False)
        stats = None if isinstance(heartbeat_stats, Unset) else encode("heartbeat_stats", heartbeat_stats)
        return worker_model(
            await self._run(lambda ledger: registry.worker_heartbeat(ledger, worker_id, stats, self._clock.now()))
        )

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def statistics(self) -> LightningStoreStatistics:
        counts = await self._run(lambda ledger: ledger.counts())
        now = self._clock.now()
        return cast(
            LightningStoreStatistics,
            {"name": type(self).__name__, "uptime": now - self._opened_at, "time": now, **counts},
        )


def _draft(request: EnqueueRolloutRequest) -> Draft:
    return Draft(
        input=encode("input", request.input),
        mode=request.mode,
        resources_id=request.resources_id,
        config=encode_config(request.config),
        metadata=encode_optional("metadata", request.metadata),
    )


def _one_of(field: str, value: Any, valid: Sequence[Any]) -> None:
    if value not in valid:
        raise ValueError(f"`{field}` is {value!r}; give one of {', '.join(map(str, valid))}")


def _name(field: str, value: Any, *, optional: bool = True) -> None:
    if not isinstance(value, str) and not (optional and value is None):
        raise TypeError(f"`{field}` is a {type(value).__name__}; give a string")


def _seconds(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{field}` is a {type(value).__name__}; give seconds since the epoch")
    if not math.isfinite(value):
        raise ValueError(f"`{field}` is {value}; give seconds since the epoch")
    return float(value)


def _not_nan(field: str, seconds: float | None) -> None:
    if seconds is not None and math.isnan(seconds):
        raise ValueError(f"`{field}` is {seconds}; give how many seconds to wait (0: only look)")
