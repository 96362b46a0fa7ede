"""`LedgerStore`: everything that the homes share. Encodes arguments, runs an operation, decodes its rows.

`memory` and `sql` say where an operation runs (`_run`). Values are encoded and decoded in the caller's thread, so that
a wrong one is refused before anything happens and the home is kept busy no longer than needed.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    NamedResources,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    TaskInput,
    Worker,
)

from . import operations, registry, span_operations
from .base import UNSET, FilterLogic, LightningStore, SortOrder, Unset
from .codec import encode
from .ledger import Ledger
from .query import Query, make_query, page_model
from .rows import (
    Draft,
    attempt_model,
    attempted_model,
    encode_config,
    encode_optional,
    encode_resources,
    resources_model,
    rollout_model,
    span_model,
    span_row,
    worker_model,
)
from .waits import Waits

R = TypeVar("R")
Operation = Callable[[Ledger], R]


class LedgerStore(LightningStore):
    """A store whose rows are in a `Ledger` of this process."""

    def __init__(self) -> None:
        self._waits = Waits()

    @abstractmethod
    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        """Run an operation as one transaction, then tell `_waits` of its effects.

        Args:
            operation: May be run again from the start if the home could not keep what it did.
            undo: From the result, the operation that takes it back when the caller was cancelled meanwhile.
        """

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
        draft = _draft(
            EnqueueRolloutRequest(input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata)
        )
        return attempted_model(
            *await self._run(lambda ledger: operations.start_rollout(ledger, draft, worker_id, time.time()))
        )

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        drafts = [_draft(request) for request in rollouts]
        rows = await self._run(lambda ledger: operations.create(ledger, drafts, time.time()))
        return [rollout_model(row, None) for row in rows]

    async def dequeue_many_rollouts(
        self, limit: int = 1, worker_id: str | None = None, timeout: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        if limit < 1:
            raise ValueError(f"`limit` is {limit}; give how many rollouts to take (1 or more)")
        deadline = time.monotonic() + timeout
        taken = await self._take(limit, worker_id)
        while not taken and (left := deadline - time.monotonic()) > 0:
            with self._waits.queue() as wait:
                taken = await self._take(limit, worker_id)
                if not taken:
                    await wait.until(left)
                    taken = await self._take(limit, worker_id)
                    wait.seen = True
        return [attempted_model(row, attempt) for row, attempt in taken]

    async def _take(self, limit: int, worker_id: str | None) -> list[operations.AttemptedRow]:
        def undo(taken: list[operations.AttemptedRow]) -> Operation[None]:
            return lambda ledger: operations.give_back(ledger, taken, time.time())

        return await self._run(lambda ledger: operations.dequeue(ledger, limit, worker_id, time.time()), undo)

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        return attempted_model(
            *await self._run(lambda ledger: operations.start_attempt(ledger, rollout_id, worker_id, time.time()))
        )

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
        return rollout_model(
            *await self._run(lambda ledger: operations.update_rollout(ledger, rollout_id, changes, status, time.time()))
        )

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
            changes["worker_id"] = worker_id
        if not isinstance(last_heartbeat_time, Unset):
            changes["last_heartbeat_time"] = last_heartbeat_time
        if not isinstance(metadata, Unset):
            changes["metadata"] = encode_optional("metadata", metadata)
        return attempt_model(
            await self._run(
                lambda ledger: operations.update_attempt(ledger, rollout_id, attempt_id, changes, status, time.time())
            )
        )

    async def expire_attempts(self, now: float | None = None) -> list[Attempt]:
        rows = await self._run(lambda ledger: operations.expire(ledger, time.time() if now is None else now))
        return [attempt_model(row) for row in rows]

    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Rollout]:
        query = make_query(
            "rollouts",
            Rollout,
            within={"status": status_in, "rollout_id": rollout_id_in},
            contains={"rollout_id": rollout_id_contains},
            filter_logic=filter_logic,
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        pairs, total = await self._run(lambda ledger: operations.query_rollouts(ledger, query))
        return page_model(query, [rollout_model(row, attempt) for row, attempt in pairs], total)

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        query = make_query(
            "attempts",
            Attempt,
            scope={"rollout_id": rollout_id},
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        return await self._query(query, attempt_model)

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        found = await self._run(lambda ledger: operations.find(ledger, rollout_id))
        return None if found is None else rollout_model(*found)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        found = await self._run(lambda ledger: operations.find(ledger, rollout_id))
        return None if found is None or found[1] is None else attempt_model(found[1])

    async def wait_for_rollouts(self, *, rollout_ids: Sequence[str], timeout: float | None = None) -> list[Rollout]:
        ids = list(dict.fromkeys(rollout_ids))
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

    # -- spans ------------------------------------------------------------------------------------------------------

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        rows = [span_row(span) for span in spans]
        stored = await self._run(lambda ledger: span_operations.add_spans(ledger, rows, time.time()))
        given = {(span.rollout_id, span.attempt_id, span.span_id): span for span in reversed(spans)}
        return [
            given[row.rollout_id, row.attempt_id, row.span_id].model_copy(update={"sequence_id": row.sequence_id})
            for row in stored
        ]

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        keys = list(rollout_attempt_ids)
        return await self._run(lambda ledger: span_operations.reserve_sequence_ids(ledger, keys))

    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"] | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
    ) -> PaginatedResult[Span]:
        query = make_query(
            "spans",
            Span,
            scope={"rollout_id": rollout_id} if attempt_id is None else _attempt_scope(rollout_id, attempt_id),
            equals={"trace_id": trace_id, "span_id": span_id, "parent_id": parent_id, "name": name},
            contains={
                "trace_id": trace_id_contains,
                "span_id": span_id_contains,
                "parent_id": parent_id_contains,
                "name": name_contains,
            },
            filter_logic=filter_logic,
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        page = await self._run(lambda ledger: span_operations.query_spans(ledger, query))
        return page_model(query, [span_model(row) for row in page.rows], page.total)

    async def query_many_spans(self, attempts: Sequence[tuple[str, str]]) -> dict[str, list[Span]]:
        keys = list(attempts)
        found = await self._run(lambda ledger: span_operations.spans_of_attempts(ledger, keys))
        return {rollout_id: [span_model(row) for row in rows] for rollout_id, rows in found.items()}

    # -- resources --------------------------------------------------------------------------------------------------

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        text = encode_resources(resources)
        return resources_model(
            await self._run(lambda ledger: registry.write_resources(ledger, None, text, time.time()))
        )

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        text = encode_resources(resources)
        return resources_model(
            await self._run(lambda ledger: registry.write_resources(ledger, resources_id, text, time.time()))
        )

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        row = await self._run(lambda ledger: ledger.resources(resources_id))
        return None if row is None else resources_model(row)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        row = await self._run(lambda ledger: ledger.latest_resources())
        return None if row is None else resources_model(row)

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[ResourcesUpdate]:
        query = make_query(
            "resources",
            ResourcesUpdate,
            equals={"resources_id": resources_id},
            contains={"resources_id": resources_id_contains},
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        return await self._query(query, resources_model)

    # -- workers ----------------------------------------------------------------------------------------------------

    async def query_workers(
        self,
        *,
        status_in: Sequence[str] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Worker]:
        query = make_query(
            "workers",
            Worker,
            within={"status": status_in},
            contains={"worker_id": worker_id_contains},
            filter_logic=filter_logic,
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        return await self._query(query, worker_model)

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        row = await self._run(lambda ledger: ledger.worker(worker_id))
        return None if row is None else worker_model(row)

    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET) -> Worker:
        stats = None if isinstance(heartbeat_stats, Unset) else encode("heartbeat_stats", heartbeat_stats)
        return worker_model(
            await self._run(lambda ledger: registry.worker_heartbeat(ledger, worker_id, stats, time.time()))
        )

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def statistics(self) -> dict[str, Any]:
        counts: dict[str, Any] = dict(await self._run(lambda ledger: ledger.counts()))
        return {"name": type(self).__name__, **counts}

    async def _query(self, query: Query, model: Callable[[Any], R]) -> PaginatedResult[R]:
        page = await self._run(lambda ledger: ledger.query(query))
        return page_model(query, [model(row) for row in page.rows], page.total)


def _draft(request: EnqueueRolloutRequest) -> Draft:
    return Draft(
        input=encode("input", request.input),
        mode=request.mode,
        resources_id=request.resources_id,
        config=encode_config(request.config),
        metadata=encode_optional("metadata", request.metadata),
    )


def _attempt_scope(rollout_id: str, attempt_id: str) -> dict[str, str]:
    return {"rollout_id": rollout_id, "attempt_id": attempt_id}


def _one_of(field: str, value: Any, valid: Sequence[Any]) -> None:
    if value not in valid:
        raise ValueError(f"`{field}` is {value!r}; give one of {', '.join(map(str, valid))}")
