"""`Ledger`: the rows of a home, as `operations` reads and writes them.

Everything here is synchronous and runs where nothing else touches the home: under the memory home's lock, in the SQL
home's writer thread. `memory` and `sql_ledger` implement it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .query import Page, Query
from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow


@dataclass(slots=True)
class Effects:
    """What an operation did that somebody may be waiting for."""

    queued: int = 0
    """How many rollouts it put in the queue."""
    ended: list[str] = field(default_factory=list[str])
    """Rollouts that it brought to a terminal state."""


class Ledger(ABC):
    """Rows by id. `insert_*` adds new ones, `save_*` replaces or adds."""

    effects: Effects
    """Of the operation that is running; its runner sets and reads it."""

    @abstractmethod
    def rollout(self, rollout_id: str) -> RolloutRow | None: ...
    @abstractmethod
    def rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        """Those that exist, in any order."""

    @abstractmethod
    def insert_rollouts(self, rows: Sequence[RolloutRow]) -> None: ...
    @abstractmethod
    def move_rollout(self, row: RolloutRow) -> None:
        """Save what the state machine changes: not the input, mode, resources, config and metadata."""

    @abstractmethod
    def save_rollout(self, row: RolloutRow) -> None: ...

    @abstractmethod
    def enqueue(self, rollout_ids: Iterable[str]) -> None:
        """Put rollouts that are not in the queue at its end."""

    @abstractmethod
    def unqueue(self, rollout_id: str) -> None: ...
    @abstractmethod
    def take_queued(self, limit: int) -> list[str]:
        """Remove up to `limit` rollouts from the front of the queue."""

    @abstractmethod
    def attempt(self, rollout_id: str, attempt_id: str) -> AttemptRow | None: ...
    @abstractmethod
    def attempts(self, ids: Sequence[tuple[str, str]]) -> list[AttemptRow]:
        """Those of the (rollout_id, attempt_id) pairs that exist, in any order."""

    @abstractmethod
    def insert_attempt(self, row: AttemptRow) -> None: ...
    @abstractmethod
    def save_attempt(self, row: AttemptRow) -> None: ...
    @abstractmethod
    def delete_attempt(self, rollout_id: str, attempt_id: str) -> None: ...
    @abstractmethod
    def active_attempts(self) -> list[AttemptRow]:
        """All attempts that have not ended."""

    @abstractmethod
    def newest_active_attempt(self, worker_id: str) -> AttemptRow | None: ...

    @abstractmethod
    def insert_span(self, row: SpanRow) -> bool:
        """Add a span; false if it is there already."""

    @abstractmethod
    def spans(self, rollout_id: str, attempt_id: str) -> list[SpanRow]:
        """Spans of an attempt by sequence id, then by arrival."""

    @abstractmethod
    def resources(self, resources_id: str) -> ResourcesRow | None: ...
    @abstractmethod
    def latest_resources(self) -> ResourcesRow | None: ...
    @abstractmethod
    def save_resources(self, row: ResourcesRow) -> None: ...

    @abstractmethod
    def worker(self, worker_id: str) -> WorkerRow | None: ...
    @abstractmethod
    def save_worker(self, row: WorkerRow) -> None: ...

    @abstractmethod
    def query(self, query: Query) -> Page[Any]:
        """Rows of the kind that `query` names."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """`total_*` of each kind and `queued_rollouts`."""
