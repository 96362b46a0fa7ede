"""`LightningStore`: the queue, ledger and archive between algorithms and runners.

Algorithms enqueue rollouts and read spans; runners dequeue rollouts and write spans. Neither knows the other.
Names, arguments and semantics follow Agent-Lightning 0.3. Homes: `memory` and `sql`; both keep the
rules of `transitions` and pass one behaviour suite (`tests/store`). Every method may be called from any thread and
event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from agentlightning.types import (
    TERMINAL_ROLLOUT,
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

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Unset:
    """The type of `UNSET`: an argument that was not given, where `None` is a value of its own."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()


def is_finished(rollout: Rollout) -> bool:
    """Whether nothing more happens to the rollout."""
    return rollout.status in TERMINAL_ROLLOUT


def is_queuing(rollout: Rollout) -> bool:
    """Whether the rollout waits for a runner, for the first time or again."""
    return rollout.status in ("queuing", "requeuing")


def is_running(rollout: Rollout) -> bool:
    """Whether a runner has the rollout."""
    return rollout.status in ("preparing", "running")


class LightningStoreCapabilities(TypedDict, total=False):
    """What a store can do; `False` where a key is missing."""

    thread_safe: bool
    """Methods may be called from any thread and event loop."""
    async_safe: bool
    """Methods may run at once in one event loop."""
    zero_copy: bool
    """Copies of the object in other processes see the same rows."""
    otlp_traces: bool
    """`otlp_traces_endpoint` takes OpenTelemetry's own export."""


class LightningStoreStatistics(TypedDict, total=False):
    """What a store holds."""

    name: str
    """Which store answers."""
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    queued_rollouts: int
    """How many wait to be dequeued."""
    uptime: float
    """Seconds since it was opened."""
    time: float
    """Seconds since the epoch by the store's clock, which its timestamps are from."""


FilterLogic = Literal["and", "or"]
SortOrder = Literal["asc", "desc"]


class LightningStore:
    """The interface of every store home.

    Unknown ids raise `NotFoundError` (a `ValueError`) unless a method says that it returns `None`. An attempt is a
    lease: once it was ended by the store (`timeout`, `unresponsive`) or by cancelling its rollout, or once its rollout
    is back in the queue or has a newer attempt, what its worker writes raises `LeaseLostError` and changes nothing.
    """

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """What this store can do."""
        return {}

    def otlp_traces_endpoint(self) -> str:
        """URL for OpenTelemetry's OTLP/HTTP exporters. Raises `NotImplementedError` without `otlp_traces`."""
        raise NotImplementedError(f"`{type(self).__name__}` takes no OTLP; serve it with `LightningStoreServer`")

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

    async def release_rollouts(self, key: str) -> int:
        """Give back what `dequeue_many_rollouts` took, or would still take, under a request key (`replies.keyed`).

        For a client whose call was cancelled, so that it can't know what the server did. Only attempts that nobody has
        written to go back to the queue. Returns how many did.

        Raises:
            ConflictError: `key` is that of a call of another method.
        """
        return 0

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

        An attempt under way ends with it: `succeeded` if the rollout does, else `failed`.

        Raises:
            ConflictError: `preparing` or `running` for a terminal rollout.
            NotFoundError: no such rollout, or a `resources_id` that the store doesn't know.
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

        Raises:
            LeaseLostError: the attempt no longer counts (see the class), unless `status` is the one it has.
        """
        raise NotImplementedError

    async def end_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus,
        spans: Sequence[Span] = (),
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        """`add_many_spans` with the last spans of an attempt, then `update_attempt` with its final status.

        Our own homes do both in one transaction: half the work, and all or nothing. Not part of Agent-Lightning 0.3;
        runners call it.

        Args:
            rollout_id: Of the rollout.
            attempt_id: Of the attempt; `latest` is none here.
            status: One of the four in which an attempt ends.
            spans: All of this attempt.
            metadata: Replaces the attempt's.

        Raises:
            NotFoundError, LeaseLostError: as the two methods do.
            ValueError: `spans` has one of another attempt.
        """
        require_own_spans(rollout_id, attempt_id, spans)
        if spans:
            await self.add_many_spans(spans)
        return await self.update_attempt(rollout_id, attempt_id, status=status, metadata=metadata)

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
        """Rollouts that match; each that has attempts comes as an `AttemptedRollout` with the latest one.

        `status` and `rollout_ids` are older names of `status_in` and `rollout_id_in`.
        """
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
        Spans of an attempt that ended by its own report (`succeeded`, `failed`) are still taken while it counts.

        Raises:
            NotFoundError: a span of an unknown rollout or attempt; nothing is stored.
            LeaseLostError: a span of an attempt that no longer counts; nothing is stored.
        """
        raise NotImplementedError

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """Store a finished OpenTelemetry span, numbered on arrival if `sequence_id` is not given. See `add_span`."""
        return await self.add_span(Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id or 0))

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

    async def trim(self, retention: int) -> int:
        """Drop the oldest ended rollouts beyond the newest `retention`, with their attempts and spans.

        Rollouts that somebody waits for are kept. Returns how many were dropped.
        """
        raise NotImplementedError

    async def statistics(self) -> LightningStoreStatistics:
        """Counts by kind: `total_rollouts`, `total_attempts`, `total_spans`, `total_resources`, `total_workers`, ..."""
        raise NotImplementedError

    async def close(self) -> None:
        """Flush and let go of files and threads. The store can't be used afterwards."""


def require_own_spans(rollout_id: str, attempt_id: str, spans: Sequence[Span]) -> None:
    """For `end_attempt`. Raises `ValueError` for a span of another attempt."""
    for span in spans:
        if (span.rollout_id, span.attempt_id) != (rollout_id, attempt_id):
            raise ValueError(
                f"`spans` has one of attempt {span.attempt_id!r} of rollout {span.rollout_id!r}, which is not the one "
                "that ends; send it by `add_many_spans`"
            )
