"""`InMemoryLightningStore`: the store of tests, of `Trainer.dev` and of whoever needs no restart.

Retention: of the rollouts that have ended, the newest `retention` are kept, with their attempts and spans. A rollout
that a `wait_for_rollouts` in progress names counts as new, so it is not dropped while waited for. Whoever reads the
spans of more rollouts than that at once needs a larger `retention`; reading dropped ones by `query_many_spans` raises.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentlightning.types import TERMINAL_ROLLOUT

from .home import LedgerStore, Operation, R
from .ledger import Effects, Ledger
from .query import Page, Query, answer
from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow
from .transitions import ACTIVE

TRIM_AT_ONCE = 64
"""How many rollouts may be dropped after one operation; bounds its time."""

AttemptKey = tuple[str, str]


class InMemoryLightningStore(LedgerStore):
    """A store in this process's memory.

    Args:
        retention: How many ended rollouts are kept, with their attempts and spans.

    Raises:
        ValueError: `retention` is negative.
    """

    def __init__(self, retention: int = 10_000) -> None:
        if retention < 0:
            raise ValueError(f"`retention` is {retention}; give how many ended rollouts to keep (0 or more)")
        super().__init__()
        self._retention = retention
        self._lock = threading.Lock()
        self._ledger = MemoryLedger()
        self._closed = False

    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        # Nothing is awaited, so a caller can't be cancelled between the operation and its result: no `undo`.
        with self._lock:
            if self._closed:
                raise RuntimeError("the store is closed; open a new one")
            effects = self._ledger.effects = Effects()
            result = operation(self._ledger)
            if effects.ended:
                self._ledger.trim(self._retention, self._waits.is_awaited)
        self._waits.notify(effects)
        return result

    async def close(self) -> None:
        with self._lock:
            self._closed = True
        self._waits.wake_all()


class MemoryLedger(Ledger):
    """Rows in dictionaries, in order of creation."""

    def __init__(self) -> None:
        self.effects = Effects()
        self._rollouts: dict[str, RolloutRow] = {}
        self._queue: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._attempts: dict[str, dict[str, AttemptRow]] = {}
        self._active: dict[AttemptKey, None] = {}
        self._active_by_worker: dict[str, dict[AttemptKey, None]] = {}
        self._spans: dict[str, dict[AttemptKey, SpanRow]] = {}
        self._resources: dict[str, ResourcesRow] = {}
        self._latest_resources: ResourcesRow | None = None
        self._workers: dict[str, WorkerRow] = {}

    def trim(self, retention: int, is_awaited: Callable[[str], bool]) -> None:
        """Drop ended rollouts beyond `retention`, the oldest first, some at a time."""
        for _ in range(min(len(self._ended) - retention, TRIM_AT_ONCE)):
            rollout_id = next(iter(self._ended))
            if is_awaited(rollout_id):
                self._ended.move_to_end(rollout_id)
                continue
            del self._ended[rollout_id], self._rollouts[rollout_id]
            for attempt in self._attempts.pop(rollout_id, {}).values():
                self._index_attempt(attempt, active=False)
            self._spans.pop(rollout_id, None)

    def rollout(self, rollout_id: str) -> RolloutRow | None:
        return self._rollouts.get(rollout_id)

    def rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        return [self._rollouts[rollout_id] for rollout_id in rollout_ids if rollout_id in self._rollouts]

    def insert_rollouts(self, rows: Sequence[RolloutRow]) -> None:
        for row in rows:
            self.save_rollout(row)

    def move_rollout(self, row: RolloutRow) -> None:
        self.save_rollout(row)

    def save_rollout(self, row: RolloutRow) -> None:
        self._rollouts[row.rollout_id] = row
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

    def active_attempts(self) -> list[AttemptRow]:
        return self.attempts(list(self._active))

    def newest_active_attempt(self, worker_id: str) -> AttemptRow | None:
        keys = self._active_by_worker.get(worker_id)
        return self.attempt(*next(reversed(keys))) if keys else None

    def insert_span(self, row: SpanRow) -> bool:
        spans = self._spans.setdefault(row.rollout_id, {})
        key = (row.attempt_id, row.span_id)
        return spans.setdefault(key, row) is row

    def spans(self, rollout_id: str, attempt_id: str) -> list[SpanRow]:
        found = [row for row in self._spans.get(rollout_id, {}).values() if row.attempt_id == attempt_id]
        return sorted(found, key=lambda row: row.sequence_id)

    def resources(self, resources_id: str) -> ResourcesRow | None:
        return self._resources.get(resources_id)

    def latest_resources(self) -> ResourcesRow | None:
        return self._latest_resources

    def save_resources(self, row: ResourcesRow) -> None:
        self._resources[row.resources_id] = self._latest_resources = row

    def worker(self, worker_id: str) -> WorkerRow | None:
        return self._workers.get(worker_id)

    def save_worker(self, row: WorkerRow) -> None:
        self._workers[row.worker_id] = row

    def query(self, query: Query) -> Page[Any]:
        if query.kind in ("attempts", "spans"):
            kept: dict[str, dict[Any, Any]] = self._attempts if query.kind == "attempts" else self._spans
            return answer(query, kept.get(query.scope["rollout_id"], {}).values())
        if query.kind == "rollouts":
            return answer(query, self._rollouts.values())
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
        by_worker = None if row.worker_id is None else self._active_by_worker.setdefault(row.worker_id, {})
        for index in (self._active, by_worker):
            if index is not None and active:
                index[key] = None
            elif index is not None:
                index.pop(key, None)
