"""`LitAgentRunner`: takes rollouts from the store, has the agent do them, and writes down what happened.

Per rollout it makes three calls besides the dequeue: resources, all spans at once, the final status (in this order, so
that a succeeded attempt has all its spans). An attempt that fails, for whatever reason of the agent's, is data: its
exception goes into a span and onto the attempt, and the runner goes on. An error of the store ends the runner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from agentlightning.execution.events import ExecutionEvent
from agentlightning.litagent import LitAgent
from agentlightning.litagent.litagent import executing_runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer import AttemptTrace, Tracer
from agentlightning.types import AttemptedRollout, NamedResources, Rollout, RolloutMode

from .base import Runner, as_litagent
from .calls import AgentTimeout, call_agent
from .heartbeat import heartbeats
from .hooks import Hook, trigger
from .results import error_metadata, exception_span, result_spans
from .waiting import cancelled, finished, stopping

logger = logging.getLogger(__name__)

T = TypeVar("T")


class MissingResources(LookupError):
    """The agent needs resources and the store has none."""


class RunnerStopped(RuntimeError):
    """The runner was stopped before the agent finished."""


class LitAgentRunner(Runner[T]):
    """Runs agents in this process: async ones on the event loop, others in threads.

    Args:
        tracer: Where the spans of the agent are caught.
        max_rollouts: `iter` ends after this many; `None`: only when it is told to.
        max_concurrency: How many rollouts run at once.
        heartbeat_interval: Seconds between two heartbeats.
        poll_interval: Longest wait for a rollout in one request to the store, in seconds. A rollout that comes and an
            event that is set end the wait at once.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        *,
        max_concurrency: int = 1,
        heartbeat_interval: float = 10.0,
        poll_interval: float = 5.0,
    ):
        given = {
            "max_rollouts": 1 if max_rollouts is None else max_rollouts,
            "max_concurrency": max_concurrency,
            "heartbeat_interval": heartbeat_interval,
            "poll_interval": poll_interval,
        }
        for name, value in given.items():
            if value <= 0:
                raise ValueError(f"`{name}` must be more than 0, not {value}")
        self.tracer = tracer
        self.max_rollouts = max_rollouts
        self.max_concurrency = max_concurrency
        self.heartbeat_interval = heartbeat_interval
        self.poll_interval = poll_interval
        self._agent: LitAgent[T] | None = None
        self._store: LightningStore | None = None
        self._hooks: tuple[Hook, ...] = ()
        self._worker_id = ""
        self._underway: dict[str, AttemptedRollout] = {}

    # -- life -------------------------------------------------------------------------------------------------------

    def init(self, agent: LitAgent[T], *, hooks: Sequence[Hook] = ()) -> None:
        """Take the agent. Raises `TypeError` if it is none, or one that does nothing."""
        self._agent = as_litagent(agent)
        self._agent.set_runner(self)
        self._hooks = tuple(hooks)

    def init_worker(self, worker_id: int, store: LightningStore) -> None:
        """Take the store; the store knows this runner as `Worker-<worker_id>`."""
        self._worker_id = f"Worker-{worker_id}"
        self._store = store

    def teardown_worker(self, worker_id: int) -> None:
        """Let go of the store."""
        self._store = None

    def teardown(self) -> None:
        """Let go of the agent."""
        self._agent = None
        self._hooks = ()

    @property
    def worker_id(self) -> str:
        """The name under which the store knows this runner; empty before `init_worker`."""
        return self._worker_id

    @property
    def agent(self) -> LitAgent[T]:
        """The agent. Raises `RuntimeError` before `init`."""
        if self._agent is None:
            raise RuntimeError("the runner has no agent: call `init(agent)` first, or use `run_context`")
        return self._agent

    @property
    def store(self) -> LightningStore:
        """The store. Raises `RuntimeError` before `init_worker`."""
        if self._store is None:
            raise RuntimeError("the runner has no store: call `init_worker(worker_id, store)` first")
        return self._store

    # -- work -------------------------------------------------------------------------------------------------------

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Execute rollouts from the queue until `event` is set or `max_rollouts` were taken.

        Rollouts under way then are finished. If `iter` is cancelled instead, their attempts fail with `RunnerStopped`.
        """
        running: set[asyncio.Task[Any]] = set()
        left = self.max_rollouts
        try:
            async with self._heartbeats(), stopping(event) as stop:
                while not stop.done() and left != 0:
                    slots = self.max_concurrency - len(running)
                    if slots:
                        taken = await self._dequeue(slots if left is None else min(slots, left), stop)
                        left = None if left is None else left - len(taken)
                        running |= {asyncio.create_task(self._execute(rollout)) for rollout in taken}
                    else:
                        await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)
                    running -= finished(running)
                while running:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    running -= finished(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def step(
        self,
        input: T,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Execute one task at once, past the queue.

        Args:
            input: The task.
            resources: Stored as a new version and used; `None`: the latest ones of the store.
            mode: `train`, `val` or `test`.
            event: Setting it cancels the agent.

        Returns:
            The finished rollout, as the store has it.

        Raises:
            Exception: what the agent raised, after the attempt was stored as failed.
        """
        update = await self.store.add_resources(resources) if resources is not None else None
        rollout = await self.store.start_rollout(
            input, mode, resources_id=update.resources_id if update else None, worker_id=self._worker_id
        )
        async with self._heartbeats(), stopping(event) as stop:
            work = asyncio.create_task(self._execute(rollout))
            try:
                await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled():
            raise RunnerStopped("the runner was stopped before the agent finished")
        if (error := work.result()) is not None:
            raise error
        found = await self.store.get_rollout_by_id(rollout.rollout_id)
        assert found is not None, f"the store lost rollout {rollout.rollout_id}"
        return found

    def _heartbeats(self) -> AbstractAsyncContextManager[None]:
        return heartbeats(self.store, self._worker_id, self._underway, self.heartbeat_interval)

    async def _dequeue(self, limit: int, stop: asyncio.Future[Any]) -> Sequence[AttemptedRollout]:
        """Up to `limit` rollouts; none if `stop` comes first. Relies on this: a cancelled dequeue takes nothing."""
        taking = asyncio.ensure_future(
            self.store.dequeue_many_rollouts(limit=limit, worker_id=self._worker_id, timeout=self.poll_interval)
        )
        try:
            await asyncio.wait({taking, stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            for rollout in await cancelled(taking) or ():
                await self.store.update_rollout(rollout.rollout_id, status="queuing")
            raise
        return await cancelled(taking) or ()

    async def _execute(self, rollout: AttemptedRollout) -> Exception | None:
        """Do one attempt from start to final status; what it failed with."""
        executing_runner.set(self)
        attempt_id = rollout.attempt.attempt_id
        self._underway[attempt_id] = rollout
        try:
            error = await self._traced(rollout)
        except asyncio.CancelledError:
            await self._finish(rollout, RunnerStopped("the runner was stopped before the agent finished"))
            raise
        finally:
            del self._underway[attempt_id]
        await self._finish(rollout, error)
        return error

    async def _traced(self, rollout: AttemptedRollout) -> Exception | None:
        about: dict[str, Any] = {"agent": self.agent, "runner": self, "rollout": rollout}
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        await trigger(self._hooks, "on_rollout_start", **about)
        async with self.tracer.trace_context(rollout.rollout_id, **ids, store=self.store) as trace:
            await trigger(self._hooks, "on_trace_start", tracer=self.tracer, **about)
            error = await self._run_agent(rollout, trace)
            await trigger(self._hooks, "on_trace_end", tracer=self.tracer, **about)
        if self._hooks:
            spans = await self.store.query_spans(rollout.rollout_id, rollout.attempt.attempt_id)
            await trigger(self._hooks, "on_rollout_end", spans=spans, **about)
        return error

    async def _run_agent(self, rollout: AttemptedRollout, trace: AttemptTrace) -> Exception | None:
        resources = await self._resources(rollout)
        try:
            if resources is None and self.agent.needs_resources:
                raise MissingResources(_no_resources(rollout))
            entry = self.agent.entry(rollout.mode)
            timeout = rollout.config.timeout_seconds
            result = await call_agent(entry, rollout.input, resources or {}, rollout, timeout=timeout)
            spans = result_spans(result, rollout)
        except Exception as error:  # noqa: BLE001  # a bad rollout is data
            trace.add(exception_span(error, rollout))
            return error
        for span in spans:
            trace.add(span)
        return None

    async def _resources(self, rollout: AttemptedRollout) -> NamedResources | None:
        if rollout.resources_id is None:
            update = await self.store.get_latest_resources()
        else:
            update = await self.store.get_resources_by_id(rollout.resources_id)
        return update.resources if update is not None else None

    async def _finish(self, rollout: AttemptedRollout, error: Exception | None) -> None:
        attempt = rollout.attempt
        if error is None:
            await self.store.update_attempt(rollout.rollout_id, attempt.attempt_id, status="succeeded")
            return
        logger.info("rollout %s failed: %s: %s", rollout.rollout_id, type(error).__name__, error)
        await self.store.update_attempt(
            rollout.rollout_id,
            attempt.attempt_id,
            status="timeout" if isinstance(error, AgentTimeout) else "failed",
            metadata={**(attempt.metadata or {}), "error": error_metadata(error)},
        )


def _no_resources(rollout: AttemptedRollout) -> str:
    missing = f"no resources `{rollout.resources_id}`" if rollout.resources_id else "no resources"
    return (
        f"the store has {missing}, and the agent needs some; call `store.add_resources({{...}})` before the rollout "
        "is enqueued, or give the trainer `initial_resources`"
    )
