"""The state machine of the store against a small model, in memory and in SQLite, by random sequences of calls
(hypothesis)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore
from agentlightning.types import AttemptedRollout, ConflictError, LeaseLostError, RolloutConfig, Span

T = TypeVar("T")
ENDED_ROLLOUT = ("failed", "succeeded", "cancelled")
ACTIVE = ("preparing", "running")
ENDED_ATTEMPT = ("failed", "succeeded", "unresponsive", "timeout")
IN_QUEUE = ("queuing", "requeuing")
ATTEMPT_STATUS = st.sampled_from(["preparing", "running", *ENDED_ATTEMPT])
PICK = st.integers(0, 10**6)


@dataclass
class ModelAttempt:
    attempt_id: str
    worker: str | None
    status: str = "preparing"
    spans: int = 0


@dataclass
class ModelRollout:
    config: RolloutConfig
    status: str
    attempts: list[ModelAttempt] = field(default_factory=list[ModelAttempt])


class StoreMachine(RuleBasedStateMachine):
    """Does everything to the store and to the model, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = self.open()
        self.rollouts: dict[str, ModelRollout] = {}
        self.queue: list[str] = []
        self.beating: set[str] = set()
        """Workers that have sent heartbeats."""

    def open(self) -> LightningStore:
        return InMemoryLightningStore()

    def teardown(self) -> None:
        self.do(self.store.close())
        self.loop.close()

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    # -- the model's rules ------------------------------------------------------------------------------------------

    def move(self, rollout_id: str, status: str) -> None:
        self.rollouts[rollout_id].status = status
        if status in IN_QUEUE and rollout_id not in self.queue:
            self.queue.append(rollout_id)
        if status not in IN_QUEUE and rollout_id in self.queue:
            self.queue.remove(rollout_id)

    def began(self, rollout_id: str, got: AttemptedRollout, worker: str | None) -> None:
        rollout = self.rollouts[rollout_id]
        self.end_active(rollout, "unresponsive")
        rollout.attempts.append(ModelAttempt(got.attempt.attempt_id, worker))
        assert got.attempt.sequence_id == len(rollout.attempts)
        self.move(rollout_id, "preparing")

    def end_active(self, rollout: ModelRollout, status: str) -> None:
        if rollout.attempts and rollout.attempts[-1].status in ACTIVE:
            rollout.attempts[-1].status = status

    def holds_lease(self, rollout_id: str, attempt: ModelAttempt) -> bool:
        rollout = self.rollouts[rollout_id]
        given_up = attempt.status in ("timeout", "unresponsive")
        return rollout.attempts[-1] is attempt and not given_up and rollout.status not in (*IN_QUEUE, "cancelled")

    def expected(self, rollout_id: str, attempt: ModelAttempt) -> AbstractContextManager[Any]:
        """What a write for the attempt must raise."""
        return nullcontext() if self.holds_lease(rollout_id, attempt) else pytest.raises(LeaseLostError)

    def report(self, rollout_id: str, attempt: ModelAttempt, status: str) -> None:
        rollout = self.rollouts[rollout_id]
        if not self.holds_lease(rollout_id, attempt) or attempt.status in ENDED_ATTEMPT:
            return
        attempt.status = status
        if rollout.status in ENDED_ROLLOUT:
            return
        if status in ("preparing", "running", "succeeded"):
            self.move(rollout_id, status)
        elif status in rollout.config.retry_condition and len(rollout.attempts) < rollout.config.max_attempts:
            self.move(rollout_id, "requeuing")
        else:
            self.move(rollout_id, "failed")

    # -- what may happen --------------------------------------------------------------------------------------------

    @rule(
        retry=st.lists(st.sampled_from(["failed", "timeout", "unresponsive"]), unique=True),
        max_attempts=st.integers(1, 3),
        limit=st.sampled_from([None, "timeout_seconds", "unresponsive_seconds"]),
        start=st.booleans(),
    )
    def create(self, retry: list[Any], max_attempts: int, limit: str | None, start: bool) -> None:
        limits: dict[str, Any] = {limit: 100.0} if limit else {}
        config = RolloutConfig(retry_condition=retry, max_attempts=max_attempts, **limits)
        if start:
            rollout = self.do(self.store.start_rollout("task", config=config, worker_id="w-0"))
            self.rollouts[rollout.rollout_id] = ModelRollout(config, "preparing")
            self.began(rollout.rollout_id, rollout, "w-0")
        else:
            queued = self.do(self.store.enqueue_rollout("task", config=config))
            self.rollouts[queued.rollout_id] = ModelRollout(config, "queuing")
            self.queue.append(queued.rollout_id)

    @rule(limit=st.integers(1, 3), worker=st.sampled_from([None, "w-0", "w-1"]))
    def dequeue(self, limit: int, worker: str | None) -> None:
        got = self.do(self.store.dequeue_many_rollouts(limit=limit, worker_id=worker))
        expected = self.queue[:limit]
        assert [rollout.rollout_id for rollout in got] == expected
        for rollout in got:
            self.began(rollout.rollout_id, rollout, worker)

    @precondition(lambda self: self.rollouts)
    @rule(pick=PICK)
    def start_attempt(self, pick: int) -> None:
        rollout_id = self.any_rollout(pick)
        self.began(rollout_id, self.do(self.store.start_attempt(rollout_id, worker_id="w-2")), "w-2")

    @precondition(lambda self: self.any_attempts())
    @rule(pick=PICK, status=ATTEMPT_STATUS)
    def update_attempt(self, pick: int, status: Any) -> None:
        rollout_id, attempt = self.any_attempt(pick)
        repeated = attempt.status == status
        with nullcontext() if repeated else self.expected(rollout_id, attempt):
            stored = self.do(self.store.update_attempt(rollout_id, attempt.attempt_id, status=status))
            self.report(rollout_id, attempt, status)
            assert stored.status == attempt.status

    @precondition(lambda self: self.any_attempts())
    @rule(pick=PICK, worker=st.sampled_from(["w-0", "w-1"]))
    def change_hands(self, pick: int, worker: str) -> None:
        rollout_id, attempt = self.any_attempt(pick)
        with self.expected(rollout_id, attempt):
            self.do(self.store.update_attempt(rollout_id, attempt.attempt_id, worker_id=worker))
            attempt.worker = worker

    @precondition(lambda self: self.any_attempts())
    @rule(pick=PICK)
    def beat(self, pick: int) -> None:
        rollout_id, attempt = self.any_attempt(pick)
        with self.expected(rollout_id, attempt):
            self.do(self.store.update_attempt(rollout_id, attempt.attempt_id))

    @precondition(lambda self: self.any_attempts())
    @rule(pick=PICK, count=st.integers(1, 3))
    def add_spans(self, pick: int, count: int) -> None:
        rollout_id, attempt = self.any_attempt(pick)
        spans = [Span.create("s", rollout_id=rollout_id, attempt_id=attempt.attempt_id) for _ in range(count)]
        before = sum(each.spans for each in self.rollouts[rollout_id].attempts)
        with self.expected(rollout_id, attempt):
            stored = self.do(self.store.add_many_spans([*spans, spans[0]]))
            assert [span.sequence_id for span in stored] == list(range(before + 1, before + count + 1))
            attempt.spans += count
            self.report(rollout_id, attempt, "running")

    @precondition(lambda self: self.rollouts)
    @rule(pick=PICK, status=st.sampled_from([*IN_QUEUE, "preparing", "running", *ENDED_ROLLOUT]))
    def update_rollout(self, pick: int, status: Any) -> None:
        rollout_id = self.any_rollout(pick)
        ended = self.rollouts[rollout_id].status in ENDED_ROLLOUT
        try:
            self.do(self.store.update_rollout(rollout_id, status=status))
        except ConflictError:
            assert ended
            assert status in ACTIVE
            return
        if not ended or status in IN_QUEUE:
            if status not in ACTIVE:
                self.end_active(self.rollouts[rollout_id], "succeeded" if status == "succeeded" else "failed")
            self.move(rollout_id, status)

    @rule(worker=st.sampled_from(["w-0", "w-1"]))
    def worker_beats(self, worker: str) -> None:
        self.do(self.store.update_worker(worker))
        self.beating.add(worker)

    @rule()
    def expire(self) -> None:
        """Long after: whoever has a limit is overdue."""
        expected: dict[str, tuple[str, ModelAttempt, str]] = {}
        for rollout_id, attempt in self.any_attempts():
            config = self.rollouts[rollout_id].config
            silent = bool(config.unresponsive_seconds) or attempt.worker in self.beating
            if attempt.status in ACTIVE and (config.timeout_seconds or silent):
                status = "timeout" if config.timeout_seconds else "unresponsive"
                expected[attempt.attempt_id] = (rollout_id, attempt, status)
        late = self.do(self.store.expire_attempts(now=1e12))
        assert {each.attempt_id: each.status for each in late} == {key: value[2] for key, value in expected.items()}
        # In which order they get back into the queue is the store's choice.
        for each in late:
            self.report(*expected[each.attempt_id])

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def same_as_the_model(self) -> None:
        stored = {rollout.rollout_id: rollout for rollout in self.do(self.store.query_rollouts())}
        assert {key: value.status for key, value in stored.items()} == {
            key: value.status for key, value in self.rollouts.items()
        }
        for rollout_id, model in self.rollouts.items():
            rollout = stored[rollout_id]
            assert (rollout.end_time is not None) == (rollout.status in ENDED_ROLLOUT)
            attempts = list(self.do(self.store.query_attempts(rollout_id)))
            assert [(each.attempt_id, each.status) for each in attempts] == [
                (each.attempt_id, each.status) for each in model.attempts
            ]
            assert all((each.end_time is not None) == (each.status in ENDED_ATTEMPT) for each in attempts)
            if attempts:
                assert isinstance(rollout, AttemptedRollout)
                assert rollout.attempt == attempts[-1]

    @invariant()
    def only_the_latest_attempt_of_an_open_rollout_is_under_way(self) -> None:
        for rollout_id in self.rollouts:
            rollout = self.do(self.store.get_rollout_by_id(rollout_id))
            assert rollout is not None
            *older, latest = [each.status for each in self.do(self.store.query_attempts(rollout_id))] or [None]
            assert not set(older) & set(ACTIVE)
            assert latest not in ACTIVE or rollout.status in ACTIVE

    @invariant()
    def workers_are_busy_exactly_with_active_attempts(self) -> None:
        active = {attempt.worker for _, attempt in self.any_attempts() if attempt.status in ACTIVE} - {None}
        busy = {worker.worker_id for worker in self.do(self.store.query_workers(status_in=["busy"]))}
        assert busy == active

    @invariant()
    def queue_holds_what_waits(self) -> None:
        assert self.do(self.store.statistics())["queued_rollouts"] == len(self.queue)

    def any_rollout(self, pick: int) -> str:
        return list(self.rollouts)[pick % len(self.rollouts)]

    def any_attempts(self) -> list[tuple[str, ModelAttempt]]:
        return [(key, attempt) for key, rollout in self.rollouts.items() for attempt in rollout.attempts]

    def any_attempt(self, pick: int) -> tuple[str, ModelAttempt]:
        attempts = self.any_attempts()
        return attempts[pick % len(attempts)]


class SqliteMachine(StoreMachine):
    def open(self) -> LightningStore:
        self.directory = tempfile.TemporaryDirectory()
        return SqlLightningStore(Path(self.directory.name) / "store.sqlite")

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]
StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=CHECKS
)
SqliteMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=CHECKS
)
TestMemoryStateMachine = StoreMachine.TestCase
TestSqliteStateMachine = SqliteMachine.TestCase
