"""`InMemoryLightningStore`: the store of tests, of `Trainer.dev` and of whoever needs no restart.

Retention: of the rollouts that have ended, the newest `retention` are kept, with their attempts and spans. A rollout
that a `wait_for_rollouts` in progress names counts as new, so it is not dropped while waited for. Whoever reads the
spans of more rollouts than that at once needs a larger `retention`; reading dropped ones by `query_many_spans` raises.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile
from typing import Any, Final

from agentlightning.types import TERMINAL_ROLLOUT, StoreClosedError

from .home import LedgerStore, Operation, R
from .ledger import Effects, Ledger, SpanKey
from .memory_rollouts import RolloutTable
from .query import Page, Query, answer
from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow
from .transitions import ACTIVE

TRIM_AT_ONCE: Final = 64
"""How many rollouts may be dropped after one operation; bounds its time."""
WORKERS_KEPT: Final = 10_000
"""How many workers are remembered; those that have work are, whatever their number."""

AttemptKey = tuple[str, str]


class InMemoryLightningStore(LedgerStore):
    """A store in this process's memory.

    Args:
        retention: How many ended rollouts are kept, with their attempts and spans.
        scan_interval: Seconds between the background scans for overdue attempts.
        worker_timeout: Seconds after which a worker that has sent heartbeats and then none is taken for gone; `None`:
            never.
        thread_safe: Upstream's choice of lock. This store may be used from any thread, whatever is given.
        scan_debounce_seconds: Upstream's name for `scan_interval`.
        eviction_memory_threshold: Upstream's bound on memory, accepted with a warning: `retention` is the bound here.
        safe_memory_threshold: Likewise.
        span_size_estimator: Likewise.
        tracker: Likewise; `LightningStoreServer` serves metrics.

    Raises:
        ValueError: `retention` or `worker_timeout` is negative, or `scan_interval` not positive.
    """

    def __init__(
        self,
        retention: int = 10_000,
        *,
        scan_interval: float = 1.0,
        worker_timeout: float | None = 60.0,
        thread_safe: bool = True,
        scan_debounce_seconds: float | None = None,
        eviction_memory_threshold: float | None = None,
        safe_memory_threshold: float | None = None,
        span_size_estimator: Callable[[Any], int] | None = None,
        tracker: Any = None,
    ) -> None:
        _warn_unused(eviction_memory_threshold, safe_memory_threshold, span_size_estimator, tracker)
        super().__init__(
            scan_interval=scan_interval,
            worker_timeout=worker_timeout,
            retention=retention,
            scan_debounce_seconds=scan_debounce_seconds,
        )
        self._kept = retention
        self._lock = threading.Lock()
        self._ledger = MemoryLedger()
        self._closed = False

    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        # Nothing is awaited, so a caller can't be cancelled between the operation and its result: no `undo`.
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closed; open a new one")
            effects = self._ledger.effects = Effects()
            result = operation(self._ledger)
            if effects.ended:
                self._ledger.trim(self._kept, self._waits.is_awaited)
        self._waits.notify(effects)
        return result

    async def scan(self) -> None:
        await super().scan()
        with self._lock:
            self._ledger.trim_workers(WORKERS_KEPT)

    async def close(self) -> None:
        with self._lock:
            self._closed = True
        self._waits.wake_all()
        await self._watchdog.close()


def _warn_unused(*given: Any) -> None:
    """For arguments of 0.3 that bound its memory in another way, or measure it."""
    if any(value is not None for value in given):
        warnings.warn(
            "`eviction_memory_threshold`, `safe_memory_threshold`, `span_size_estimator` and `tracker` are not used: "
            "`retention` says how many ended rollouts are kept",
            stacklevel=3,
        )


class MemoryLedger(Ledger):
    """Rows in dictionaries, in order of creation."""

    def __init__(self) -> None:
        self.effects = Effects()
        self._rollouts = RolloutTable()
        self._queue: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._attempts: dict[str, dict[str, AttemptRow]] = {}
        self._active: dict[AttemptKey, None] = {}
        self._active_by_worker: dict[str, dict[AttemptKey, None]] = {}
        self._spans: dict[str, dict[AttemptKey, SpanRow]] = {}
        self._resources: dict[str, ResourcesRow] = {}
        self._latest_resources: ResourcesRow | None = None
        self._workers: dict[str, WorkerRow] = {}
        self._replies: dict[str, tuple[float, str]] = {}

    # -- retention --------------------------------------------------------------------------------------------------

    def trim(self, retention: int, is_awaited: Callable[[str], bool]) -> None:
        """Drop ended rollouts beyond `retention`, the oldest first, some at a time."""
        for _ in range(min(len(self._ended) - retention, TRIM_AT_ONCE)):
            rollout_id = next(iter(self._ended))
            if is_awaited(rollout_id):
                self._ended.move_to_end(rollout_id)
            else:
                self.drop_rollouts([rollout_id])

    def trim_workers(self, kept: int) -> None:
        """Drop workers that are not busy beyond the `kept` that were heard of last."""
        if len(self._workers) <= kept:
            return
        idle = [row for row in self._workers.values() if row.status != "busy"]
        idle.sort(key=_last_heard)
        for row in idle[: len(self._workers) - kept]:
            del self._workers[row.worker_id]

    def ended(self, beyond: int, limit: int) -> list[str]:
        return list(islice(self._ended, max(0, min(limit, len(self._ended) - beyond))))

    def drop_rollouts(self, rollout_ids: Sequence[str]) -> None:
        for rollout_id in rollout_ids:
            del self._ended[rollout_id]
            self._rollouts.drop(rollout_id)
            for attempt in self._attempts.pop(rollout_id, {}).values():
                self._index_attempt(attempt, active=False)
            self._spans.pop(rollout_id, None)

    # -- rollouts and the queue -------------------------------------------------------------------------------------

    def rollout(self, rollout_id: str) -> RolloutRow | None:
        return self._rollouts.get(rollout_id)

    def rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        return self._rollouts.some(rollout_ids)

    def lock_rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        return self._rollouts.some(rollout_ids)

    def insert_rollouts(self, rows: Sequence[RolloutRow]) -> None:
        for row in rows:
            self.save_rollout(row)

    def move_rollout(self, row: RolloutRow) -> None:
        self.save_rollout(row)

    def save_rollout(self, row: RolloutRow) -> None:
        self._rollouts.save(row)
        if row.status in TERMINAL_ROLLOUT:
            self._ended.setdefault(row.rollout_id)
        else:
            self._ended.pop(row.rollout_id, None)

    def enqueue(self, rollout_ids: Iterable[str]) -> None:
        self._queue.update(dict.fromkeys(rollout_ids))

    def unqueue(self, rollout_id: str) -> None:
        self._queue.pop(rollout_id, None)

    def take_queued(self, limit: int) -> list[str]:
        return [self._queue.popitem(last=False)[0] for _ in range(min(limit, len(self._queue)))]

    # -- attempts ---------------------------------------------------------------------------------------------------

    def attempt(self, rollout_id: str, attempt_id: str) -> AttemptRow | None:
        return self._attempts.get(rollout_id, {}).get(attempt_id)

    def attempts(self, ids: Sequence[AttemptKey]) -> list[AttemptRow]:
        found = [self.attempt(*key) for key in ids]
        return [row for row in found if row is not None]

    def insert_attempt(self, row: AttemptRow) -> None:
        self.save_attempt(row)

    def save_attempt(self, row: AttemptRow) -> None:
        before = self.attempt(row.rollout_id, row.attempt_id)
        self._attempts.setdefault(row.rollout_id, {})[row.attempt_id] = row
        # Reindexed only where it matters, so that the newest attempt of a worker stays the last.
        if before is None or (before.status in ACTIVE, before.worker_id) != (row.status in ACTIVE, row.worker_id):
            if before is not None:
                self._index_attempt(before, active=False)
            self._index_attempt(row, active=row.status in ACTIVE)

    def delete_attempt(self, rollout_id: str, attempt_id: str) -> None:
        self._index_attempt(self._attempts[rollout_id].pop(attempt_id), active=False)

    def active_attempts(self) -> list[tuple[AttemptRow, str]]:
        rows = self.attempts(list(self._active))
        return [(row, rollout.config) for row in rows if (rollout := self._rollouts.get(row.rollout_id)) is not None]

    def newest_active_attempt(self, worker_id: str) -> AttemptRow | None:
        keys = self._active_by_worker.get(worker_id)
        return self.attempt(*next(reversed(keys))) if keys else None

    # -- spans, resources, workers ----------------------------------------------------------------------------------

    def known_spans(self, keys: Sequence[SpanKey]) -> set[SpanKey]:
        return {key for key in keys if key[1:] in self._spans.get(key[0], ())}

    def insert_spans(self, rows: Sequence[SpanRow]) -> None:
        for row in rows:
            self._spans.setdefault(row.rollout_id, {})[row.attempt_id, row.span_id] = row

    def spans(self, rollout_id: str, attempt_id: str) -> list[SpanRow]:
        found = [row for row in self._spans.get(rollout_id, {}).values() if row.attempt_id == attempt_id]
        return sorted(found, key=lambda row: row.sequence_id)

    def resources(self, resources_id: str) -> ResourcesRow | None:
        return self._resources.get(resources_id)

    def latest_resources(self) -> ResourcesRow | None:
        return self._latest_resources

    def lock_resources(self) -> None:
        """Nobody else is here."""

    def save_resources(self, row: ResourcesRow) -> None:
        self._resources[row.resources_id] = self._latest_resources = row

    def worker(self, worker_id: str) -> WorkerRow | None:
        return self._workers.get(worker_id)

    def workers(self, worker_ids: Sequence[str]) -> list[WorkerRow]:
        return [self._workers[worker_id] for worker_id in worker_ids if worker_id in self._workers]

    def lock_worker(self, worker_id: str) -> WorkerRow | None:
        return self._workers.get(worker_id)

    def save_worker(self, row: WorkerRow) -> None:
        self._workers[row.worker_id] = row

    # -- the rest ---------------------------------------------------------------------------------------------------

    def reply(self, key: str) -> str | None:
        found = self._replies.get(key)
        return None if found is None else found[1]

    def save_reply(self, key: str, text: str, now: float) -> None:
        self._replies.pop(key, None)  # in order of time
        self._replies[key] = (now, text)

    def drop_reply(self, key: str) -> None:
        self._replies.pop(key, None)

    def drop_replies(self, before: float) -> None:
        for key in list(takewhile(lambda key: self._replies[key][0] < before, self._replies)):
            del self._replies[key]

    def query(self, query: Query) -> Page[Any]:
        if query.kind in ("attempts", "spans"):
            kept: dict[str, dict[Any, Any]] = self._attempts if query.kind == "attempts" else self._spans
            return answer(query, kept.get(query.scope["rollout_id"], {}).values())
        if query.kind == "rollouts":
            return self._rollouts.query(query)
        return answer(query, (self._resources if query.kind == "resources" else self._workers).values())

    def counts(self) -> dict[str, int]:
        return {
            "total_rollouts": len(self._rollouts),
            "total_attempts": sum(map(len, self._attempts.values())),
            "total_spans": sum(map(len, self._spans.values())),
            "total_resources": len(self._resources),
            "total_workers": len(self._workers),
            "queued_rollouts": len(self._queue),
        }

    def _index_attempt(self, row: AttemptRow, *, active: bool) -> None:
        key = (row.rollout_id, row.attempt_id)
        if active:
            self._active[key] = None
        else:
            self._active.pop(key, None)
        if row.worker_id is None:
            return
        by_worker = self._active_by_worker.setdefault(row.worker_id, {})
        if active:
            by_worker[key] = None
        else:
            by_worker.pop(key, None)
        if not by_worker:
            del self._active_by_worker[row.worker_id]


def _last_heard(row: WorkerRow) -> float:
    times = (row.last_heartbeat_time, row.last_dequeue_time, row.last_busy_time, row.last_idle_time)
    return max((time for time in times if time is not None), default=0.0)
