"""Request bodies of the store's server, named and shaped as Agent-Lightning 0.3 has them.

`routes` names them for each route; `openapi` documents them. A field that was not sent differs from `null` where the
interface says `UNSET`: `given` tells them apart.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentlightning.types import (
    AttemptStatus,
    EnqueueRolloutRequest,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    TaskInput,
    WorkerStatus,
)

from ..base import FilterLogic, SortOrder


class Body(BaseModel):
    """Unknown fields are ignored, as newer clients may send them."""

    model_config = ConfigDict(extra="ignore")

    def given(self, *fields: str) -> dict[str, Any]:
        """Those of `fields` that were sent, with their values."""
        return {field: getattr(self, field) for field in fields if field in self.model_fields_set}


class StartRollout(Body):
    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None
    worker_id: str | None = None


class EnqueueRollouts(Body):
    rollouts: list[EnqueueRolloutRequest]


class DequeueRollouts(Body):
    limit: int = 1
    worker_id: str | None = None
    timeout: float = Field(default=0.0, ge=0)
    """Longest time to wait for the first one, in seconds."""


class ReleaseRollouts(Body):
    key: str
    """The `Idempotency-Key` of the dequeue that is to be undone."""


class StartAttempt(Body):
    worker_id: str | None = None


class UpdateRollout(Body):
    input: TaskInput = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: dict[str, Any] | None = None


class UpdateAttempt(Body):
    status: AttemptStatus = "preparing"
    worker_id: str = ""
    last_heartbeat_time: float = 0.0
    metadata: dict[str, Any] | None = None


class UpdateWorker(Body):
    heartbeat_stats: dict[str, Any] | None = None


class Paging(Body):
    limit: int = -1
    """Longest page; -1: no limit."""
    offset: int = 0
    sort_by: str | None = None
    sort_order: SortOrder = "asc"


class QueryRollouts(Paging):
    status_in: list[RolloutStatus] | None = None
    rollout_id_in: list[str] | None = None
    rollout_id_contains: str | None = None
    filter_logic: FilterLogic = "and"


class QueryAttempts(Paging):
    sort_by: str | None = "sequence_id"


class QuerySpans(Paging):
    rollout_id: str
    attempt_id: str | None = None
    trace_id: str | None = None
    trace_id_contains: str | None = None
    span_id: str | None = None
    span_id_contains: str | None = None
    parent_id: str | None = None
    parent_id_contains: str | None = None
    name: str | None = None
    name_contains: str | None = None
    filter_logic: FilterLogic = "and"
    sort_by: str | None = "sequence_id"


class QueryResources(Paging):
    resources_id: str | None = None
    resources_id_contains: str | None = None


class QueryWorkers(Paging):
    status_in: list[WorkerStatus] | None = None
    worker_id_contains: str | None = None
    filter_logic: FilterLogic = "and"


class QueryManySpans(Body):
    attempts: list[tuple[str, str]]
    """(rollout_id, attempt_id) pairs."""


class NextSequenceId(Body):
    rollout_id: str
    attempt_id: str


class WaitForRollouts(Body):
    rollout_ids: list[str]
    timeout: float | None = None
    """Longest wait, in seconds; `null`: no limit."""


class ExpireAttempts(Body):
    now: float | None = None
    """Seconds since the epoch; `null`: the store's clock."""


class TrimRollouts(Body):
    retention: int


class NumberedSpans(BaseModel):
    """What `spans/many` answers: for each span its number, or `null` where it was there already."""

    sequence_ids: list[int | None]


class NextSequenceIdAnswer(BaseModel):
    sequence_id: int


class SequenceIdsAnswer(BaseModel):
    sequence_ids: list[int]


class Released(BaseModel):
    released: int


class Trimmed(BaseModel):
    dropped: int


class Health(BaseModel):
    status: str
    store: str
    """Class name of the home that is served."""


class ErrorAnswer(BaseModel):
    """What every refused request gets."""

    detail: str
    error_type: str
    """Class name of the error."""
    attempts: list[tuple[str, str]] | None = None
    """(rollout_id, attempt_id) of the attempts that lost their lease, of a `LeaseLostError`."""
