"""`LightningStore`: the queue, ledger and archive between algorithms and runners.

Algorithms enqueue rollouts and read spans; runners dequeue rollouts and write spans. Neither knows the other.
Names, arguments and semantics follow Agent-Lightning 0.3. Homes: `memory` and `sql`; both keep the
rules of `transitions` and pass one behaviour suite (`tests/store`). Every method may be called from any thread and
event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

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


class Unset:
    """The type of `UNSET`: an argument that was not given, where `None` is a value of its own."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()
FilterLogic = Literal["and", "or"]
SortOrder = Literal["asc", "desc"]


class LightningStore:
    """The interface of every store home. Unknown ids raise `ValueError` unless a method says that it returns `None`."""

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
        """Create a rollout that skips the queue, with attempt 1 in `preparing`.

        `resources_id=None` means the latest resources at this moment, if there are any.
        """
        raise NotImplementedError

    async def enqueue_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        """Put one rollout at the end of the queue. See `enqueue_many_rollouts`."""
        request = EnqueueRolloutRequest(
            input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata
        )
        return (await self.enqueue_many_rollouts([request]))[0]

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        """Put rollouts at the end of the queue, all or none.

        Raises:
            ValueError: a `resources_id` that the store doesn't know.
        """
        raise NotImplementedError

    async def dequeue_rollout(self, worker_id: str | None = None, timeout: float = 0.0) -> AttemptedRollout | None:
        """Take the oldest queued rollout. See `dequeue_many_rollouts`."""
        taken = await self.dequeue_many_rollouts(limit=1, worker_id=worker_id, timeout=timeout)
        return taken[0] if taken else None

    async def dequeue_many_rollouts(
        self, limit: int = 1, worker_id: str | None = None, timeout: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        """Take up to `limit` rollouts in first-in-first-out order, each with a new attempt in `preparing`.

        Waits up to `timeout` seconds for the first one, without polling; empty when none came.
        """
        raise NotImplementedError

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """Begin another attempt of a rollout, whatever `max_attempts` says."""
        raise NotImplementedError

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
        """Change what is given. A terminal status sets `end_time`; `queuing` puts it back in the queue.

        The first terminal status wins: another one changes nothing (the answer shows which it is).

        Raises:
            ValueError: `preparing` or `running` for a terminal rollout; a `resources_id` that the store doesn't know.
        """
        raise NotImplementedError

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        """Change an attempt; if it is the latest one, its status carries over to the rollout (see `transitions`).

        The first result of an attempt counts: a status that comes after it changes nothing (the answer shows which
        it is).
        """
        raise NotImplementedError

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
        """Rollouts that match; each that has attempts comes as an `AttemptedRollout` with the latest one."""
        raise NotImplementedError

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        """Attempts of one rollout; none where the store doesn't know the rollout."""
        raise NotImplementedError

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """The rollout (with its latest attempt, if any), or `None`."""
        raise NotImplementedError

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """The latest attempt of the rollout, or `None`."""
        raise NotImplementedError

    async def wait_for_rollouts(self, *, rollout_ids: Sequence[str], timeout: float | None = None) -> list[Rollout]:
        """Wait until all of `rollout_ids` are terminal or `timeout` seconds went by; those that are terminal.

        `timeout=None` waits without limit, 0 looks once. Unknown ids are left out. The order is that of `rollout_ids`.
        """
        raise NotImplementedError

    # -- spans ------------------------------------------------------------------------------------------------------

    async def add_span(self, span: Span) -> Span | None:
        """Store one span; `None` if it was there already. See `add_many_spans`."""
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        """Store spans in one round trip; those that were not there already, numbered.

        A span is the same if rollout, attempt and `span_id` are. A `sequence_id` of 0 is numbered in order of
        arrival; a larger one than any before moves the counter. The first span of an attempt makes it `running`.
        """
        raise NotImplementedError

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next sequence id of a rollout."""
        return (await self.get_many_span_sequence_ids([(rollout_id, attempt_id)]))[0]

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        """Reserve one sequence id for each pair, in order."""
        raise NotImplementedError

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
        """Spans of one rollout, of one of its attempts, or of the latest; none where the store doesn't know it."""
        raise NotImplementedError

    async def query_many_spans(self, attempts: Sequence[tuple[str, str]]) -> dict[str, list[Span]]:
        """Spans of many (rollout_id, attempt_id) pairs in one round trip, by rollout id, in order of sequence id."""
        raise NotImplementedError

    # -- resources --------------------------------------------------------------------------------------------------

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store resources under a new id as version 1; they become the latest."""
        raise NotImplementedError

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Store resources under an id, version + 1 (1 where the id is new); they become the latest."""
        raise NotImplementedError

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """The resources under an id, or `None`."""
        raise NotImplementedError

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """The resources that were added or updated last, or `None`."""
        raise NotImplementedError

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
        """Resources that match."""
        raise NotImplementedError

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
        """Workers that match."""
        raise NotImplementedError

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """The worker, or `None`."""
        raise NotImplementedError

    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET) -> Worker:
        """Record a heartbeat; a new id makes a new worker."""
        raise NotImplementedError

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def expire_attempts(self, now: float | None = None) -> list[Attempt]:
        """End the attempts that are overdue: `timeout` by their age, `unresponsive` by their silence.

        Limits are `timeout_seconds` and `unresponsive_seconds` of the rollout's config. A watchdog calls this.

        Args:
            now: Seconds since the epoch; `None`: the store's clock.

        Returns:
            The attempts that were ended by this call.
        """
        raise NotImplementedError

    async def statistics(self) -> dict[str, Any]:
        """Counts by kind: `total_rollouts`, `total_attempts`, `total_spans`, `total_resources`, `total_workers`, ..."""
        raise NotImplementedError

    async def close(self) -> None:
        """Flush and let go of files and threads. The store can't be used afterwards."""
