"""`Ledger`: the rows of a home, as `operations` reads and writes them.

Everything here is synchronous and runs in one transaction: under the memory home's lock, in the SQL home's writer
thread. `memory` and `sql_ledger` implement it.

`lock_*` are for homes that several processes write at once (PostgreSQL): what they name stays as it is, for everybody
else, until the transaction ends. Elsewhere they only read. Order: key of a reply, rollouts, workers, resources.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .query import Page, Query
from .rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow

SpanKey = tuple[str, str, str]
"""(rollout_id, attempt_id, span_id)."""


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
    def lock_rollouts(self, rollout_ids: Sequence[str]) -> list[RolloutRow]:
        """`rollouts`, locked with their attempts. Locks are taken in the order of the sorted ids."""

    @abstractmethod
    def ended(self, beyond: int, limit: int) -> list[str]:
        """Up to `limit` ids of terminal rollouts, without the newest `beyond`; what ended first comes first."""

    @abstractmethod
    def drop_rollouts(self, rollout_ids: Sequence[str]) -> None:
        """Forget terminal rollouts, with their attempts and spans."""

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
        """Remove up to `limit` rollouts from the front of the queue and lock them.

        Those that somebody else has locked are passed over.
        """

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
    def active_attempts(self) -> list[tuple[AttemptRow, str]]:
        """All attempts that have not ended, each with the `config` of its rollout."""

    @abstractmethod
    def newest_active_attempt(self, worker_id: str) -> AttemptRow | None: ...

    @abstractmethod
    def known_spans(self, keys: Sequence[SpanKey]) -> set[SpanKey]:
        """Those that are there."""

    @abstractmethod
    def insert_spans(self, rows: Sequence[SpanRow]) -> None: ...

    @abstractmethod
    def spans(self, rollout_id: str, attempt_id: str) -> list[SpanRow]:
        """Spans of an attempt by sequence id, then by arrival."""

    @abstractmethod
    def resources(self, resources_id: str) -> ResourcesRow | None: ...
    @abstractmethod
    def latest_resources(self) -> ResourcesRow | None: ...
    @abstractmethod
    def lock_resources(self) -> None:
        """Only one transaction at a time may go on from here to write resources."""

    @abstractmethod
    def save_resources(self, row: ResourcesRow) -> None: ...

    @abstractmethod
    def worker(self, worker_id: str) -> WorkerRow | None: ...
    @abstractmethod
    def workers(self, worker_ids: Sequence[str]) -> list[WorkerRow]:
        """Those that exist, in any order."""

    @abstractmethod
    def lock_worker(self, worker_id: str) -> WorkerRow | None:
        """`worker`, locked, also where it doesn't exist yet."""

    @abstractmethod
    def save_worker(self, row: WorkerRow) -> None: ...

    @abstractmethod
    def reply(self, key: str) -> str | None:
        """What `save_reply` recorded under `key`, if anything. Locks the key, also where there is nothing."""

    @abstractmethod
    def save_reply(self, key: str, text: str, now: float) -> None:
        """Record or replace the reply of a keyed request, see `replies`."""

    @abstractmethod
    def drop_reply(self, key: str) -> None: ...
    @abstractmethod
    def drop_replies(self, before: float) -> None:
        """Forget the replies that were saved before that time."""

    @abstractmethod
    def query(self, query: Query) -> Page[Any]:
        """Rows of the kind that `query` names."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """`total_*` of each kind and `queued_rollouts`."""
