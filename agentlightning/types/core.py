"""The nouns of the store: rollouts, attempts, workers, pages of them. Names and fields follow Agent-Lightning 0.3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, model_validator

RolloutMode = Literal["train", "val", "test"]
RolloutStatus = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
AttemptStatus = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
WorkerStatus = Literal["idle", "busy", "unknown"]
TaskInput = Any
"""A dataset row: any JSON value."""

TERMINAL_ROLLOUT: frozenset[str] = frozenset({"failed", "succeeded", "cancelled"})
TERMINAL_ATTEMPT: frozenset[str] = frozenset({"failed", "succeeded", "unresponsive", "timeout"})

T_co = TypeVar("T_co", covariant=True)


class RolloutConfig(BaseModel):
    """How one rollout may be executed. An unknown field is an error: misspelt, it would do nothing."""

    model_config = ConfigDict(extra="forbid")

    timeout_seconds: float | None = Field(default=None, gt=0)
    """Longest time an attempt may take, in seconds; `None`: no limit."""
    unresponsive_seconds: float | None = Field(default=None, gt=0)
    """Longest silence (no heartbeat, no span) of an attempt, in seconds; `None`: no limit."""
    max_attempts: int = Field(default=1, ge=1)
    """How many attempts there may be in all."""
    retry_condition: list[AttemptStatus] = Field(default_factory=list[AttemptStatus])
    """Attempt states that lead to another attempt while `max_attempts` allows one."""


class Rollout(BaseModel):
    """One unit of work: a task, how to run it, and how far it is."""

    rollout_id: str
    input: TaskInput
    start_time: float
    """Seconds since the epoch at which the rollout was created."""
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: dict[str, Any] | None = None


class Attempt(BaseModel):
    """One execution of a rollout by one worker. The last attempt is the one that counts."""

    rollout_id: str
    attempt_id: str
    sequence_id: int
    """1 for the first attempt of a rollout, then 2, 3, ..."""
    start_time: float
    end_time: float | None = None
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    metadata: dict[str, Any] | None = None


class AttemptedRollout(Rollout):
    """A rollout together with its latest attempt."""

    attempt: Attempt

    @model_validator(mode="after")
    def _same_rollout(self) -> AttemptedRollout:
        if self.attempt.rollout_id != self.rollout_id:
            raise ValueError(
                f"`attempt.rollout_id` {self.attempt.rollout_id!r} is not `rollout_id` {self.rollout_id!r}"
            )
        return self


class EnqueueRolloutRequest(BaseModel):
    """What `enqueue_many_rollouts` takes for each rollout."""

    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None


class Worker(BaseModel):
    """A runner as the store sees it."""

    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: dict[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None


class PaginatedResult(BaseModel, Sequence[T_co], Generic[T_co]):
    """A page of query results that is a sequence of its items and knows how many there are in all."""

    items: Sequence[T_co]
    limit: int
    """Longest page asked for; -1: no limit."""
    offset: int
    total: int
    """How many items match before `limit` and `offset`."""

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self.items[index]

    def __iter__(self) -> Iterator[T_co]:  # type: ignore[override]  # pydantic iterates fields, a page iterates items
        return iter(self.items)
