"""`LedgerQueries`: what can be asked of a home, over its `Ledger`. `home.LedgerStore` adds what changes it.

Rows are decoded in the caller's thread, so that the home is kept busy no longer than needed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from agentlightning.types import (
    Attempt,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutStatus,
    Span,
    Worker,
)

from . import operations, span_operations
from .base import FilterLogic, LightningStore, SortOrder
from .ledger import Ledger
from .query import Page, Query, make_query, page_model
from .rows import SpanRow, attempt_model, resources_model, rollout_model, span_model, worker_model

R = TypeVar("R")
Operation = Callable[[Ledger], R]


class LedgerQueries(LightningStore):
    """A store whose rows are in a `Ledger` of this process, as far as it is read."""

    @abstractmethod
    async def _run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        """Run an operation as one transaction, then tell `_waits` of its effects.

        Args:
            operation: May be run again from the start if the home could not keep what it did.
            undo: From the result, the operation that takes it back when the caller was cancelled meanwhile.
        """

    # -- rows, for the server, which writes them as JSON without making models of them ------------------------------

    async def rollout_rows(self, query: Query) -> tuple[list[operations.Pair], int]:
        """The page of rollouts with their latest attempts, and how many match in all."""
        return await self._run(lambda ledger: operations.query_rollouts(ledger, query))

    async def span_rows(self, query: Query) -> Page[SpanRow]:
        """The page of spans."""
        return await self._run(lambda ledger: span_operations.query_spans(ledger, query))

    async def span_rows_of_attempts(self, attempts: Sequence[tuple[str, str]]) -> dict[str, list[SpanRow]]:
        """See `query_many_spans`."""
        keys = list(attempts)
        return await self._run(lambda ledger: span_operations.spans_of_attempts(ledger, keys))

    # -- rollouts ---------------------------------------------------------------------------------------------------

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
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
    ) -> PaginatedResult[Rollout]:
        query = rollouts_query(
            status_in=status if status_in is None else status_in,
            rollout_id_in=rollout_ids if rollout_id_in is None else rollout_id_in,
            rollout_id_contains=rollout_id_contains,
            filter_logic=filter_logic,
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        pairs, total = await self.rollout_rows(query)
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

    # -- spans ------------------------------------------------------------------------------------------------------

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
        query = spans_query(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            trace_id=trace_id,
            trace_id_contains=trace_id_contains,
            span_id=span_id,
            span_id_contains=span_id_contains,
            parent_id=parent_id,
            parent_id_contains=parent_id_contains,
            name=name,
            name_contains=name_contains,
            filter_logic=filter_logic,
            sort_by=sort_by,
            sort_order=sort_order,
            limit=limit,
            offset=offset,
        )
        page = await self.span_rows(query)
        return page_model(query, [span_model(row) for row in page.rows], page.total)

    async def query_many_spans(self, attempts: Sequence[tuple[str, str]]) -> dict[str, list[Span]]:
        found = await self.span_rows_of_attempts(attempts)
        return {rollout_id: [span_model(row) for row in rows] for rollout_id, rows in found.items()}

    # -- resources --------------------------------------------------------------------------------------------------

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

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def _query(self, query: Query, model: Callable[[Any], R]) -> PaginatedResult[R]:
        page = await self._run(lambda ledger: ledger.query(query))
        return page_model(query, [model(row) for row in page.rows], page.total)


def rollouts_query(
    *,
    status_in: Sequence[RolloutStatus] | None,
    rollout_id_in: Sequence[str] | None,
    rollout_id_contains: str | None,
    **page: Any,
) -> Query:
    """What the arguments of `query_rollouts` ask for. Raises `ValueError` where that can't be."""
    within = {"status": status_in, "rollout_id": rollout_id_in}
    return make_query("rollouts", Rollout, within=within, contains={"rollout_id": rollout_id_contains}, **page)


def spans_query(
    *,
    rollout_id: str,
    attempt_id: str | None,
    filter_logic: FilterLogic,
    sort_by: str | None,
    sort_order: SortOrder,
    limit: int,
    offset: int,
    **filters: str | None,
) -> Query:
    """What the arguments of `query_spans` ask for. Raises `ValueError` where that can't be."""
    fields = ("trace_id", "span_id", "parent_id", "name")
    return make_query(
        "spans",
        Span,
        scope={"rollout_id": rollout_id} if attempt_id is None else _attempt_scope(rollout_id, attempt_id),
        equals={field: filters[field] for field in fields},
        contains={field: filters[f"{field}_contains"] for field in fields},
        filter_logic=filter_logic,
        sort_by=sort_by,
        sort_order=sort_order,
        limit=limit,
        offset=offset,
    )


def _attempt_scope(rollout_id: str, attempt_id: str) -> dict[str, str]:
    return {"rollout_id": rollout_id, "attempt_id": attempt_id}
