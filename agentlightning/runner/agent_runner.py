"""`LitAgentRunner`: takes rollouts from the store, has the agent do them, and writes down what happened.

It keeps `max_concurrency` agents at work. When one has finished, the next rollout is taken while the spans and the
status of the last one are written. What is done for each attempt is in `attempt`; an attempt that fails is data, and
the runner goes on. An error of the store ends the runner; a store that is closed ends it in peace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from agentlightning.execution.events import ExecutionEvent
from agentlightning.execution.host import host
from agentlightning.litagent import LitAgent
from agentlightning.store.base import LightningStore
from agentlightning.tracer import Tracer
from agentlightning.types import AttemptedRollout, NamedResources, Rollout, RolloutMode, StoreClosedError

from .attempt import STORE_GONE, Execution, RunnerStopped
from .base import Runner, as_litagent
from .crew import Crew
from .heartbeat import Heartbeat, LaunchMode
from .hooks import Hook
from .records import RECORDS_WAIT_S, Records
from .resources import ResourceCache
from .waiting import cancelled, stopping

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LitAgentRunner(Runner[T]):
    """Runs agents in this process: async ones on the event loop, others in threads.

    Args:
        tracer: Where the spans of the agent are caught.
        max_rollouts: `iter` ends after this many; `None`: only when it is told to.
        poll_interval: Longest wait for a rollout in one request to the store, in seconds. A rollout that comes and an
            event that is set end the wait at once.
        heartbeat_interval: Seconds between two heartbeats.
        interval_jitter: Heartbeats come up to so many seconds sooner or later.
        heartbeat_launch_mode: `thread`: in a thread of their own, also while an async agent blocks the event loop;
            `asyncio`: on the event loop.
        heartbeat_include_gpu: Whether heartbeats carry the load of the GPUs.
        max_concurrency: How many rollouts run at once.
        records_wait: How long a gateway may take until all calls of an attempt are in the store, in seconds.

    Raises:
        ValueError: a number is not positive, or `heartbeat_launch_mode` is another.
    """

    def __init__(
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        heartbeat_interval: float = 10.0,
        interval_jitter: float = 0.5,
        heartbeat_launch_mode: LaunchMode = "thread",
        heartbeat_include_gpu: bool = False,
        *,
        max_concurrency: int = 1,
        records_wait: float = RECORDS_WAIT_S,
    ):
        given = {
            "max_rollouts": 1 if max_rollouts is None else max_rollouts,
            "max_concurrency": max_concurrency,
            "heartbeat_interval": heartbeat_interval,
            "poll_interval": poll_interval,
            "records_wait": records_wait,
        }
        for name, value in given.items():
            if value <= 0:
                raise ValueError(f"`{name}` must be more than 0, not {value}")
        if interval_jitter < 0:
            raise ValueError(f"`interval_jitter` must be 0 or more, not {interval_jitter}")
        if heartbeat_launch_mode not in ("thread", "asyncio"):
            raise ValueError(f"`heartbeat_launch_mode` must be `thread` or `asyncio`, not {heartbeat_launch_mode!r}")
        self.tracer = tracer
        self.max_rollouts = max_rollouts
        self.max_concurrency = max_concurrency
        self.heartbeat_interval = heartbeat_interval
        self.interval_jitter = interval_jitter
        self.heartbeat_launch_mode: LaunchMode = heartbeat_launch_mode
        self.heartbeat_include_gpu = heartbeat_include_gpu
        self.poll_interval = poll_interval
        self._agent: LitAgent[T] | None = None
        self._store: LightningStore | None = None
        self._hooks: tuple[Hook, ...] = ()
        self._worker_id = ""
        self._underway: dict[str, Execution] = {}
        self._cache = ResourceCache()
        self._records = Records(records_wait)

    # -- life -------------------------------------------------------------------------------------------------------

    def init(self, agent: LitAgent[T], *, hooks: Sequence[Hook] | None = None) -> None:
        """Take the agent. Raises `TypeError` if it is none, or one that does nothing."""
        self._agent = as_litagent(agent)
        self._agent.set_runner(self)
        self.tracer.init()
        self._hooks = tuple(hooks or ())

    def init_worker(self, worker_id: int, store: LightningStore) -> None:
        """Take the store; it knows this runner as `Worker-<worker_id>`, or as the runner process's own name."""
        process = host()
        self._worker_id = f"Worker-{worker_id}" if process is None else process.worker_name
        self._store = store
        self._underway, self._cache = {}, ResourceCache()
        self.tracer.init_worker(worker_id, store)

    def teardown_worker(self, worker_id: int) -> None:
        """Let go of the store."""
        self.tracer.teardown_worker(worker_id)
        self._store = None

    def teardown(self) -> None:
        """Let go of the agent."""
        if self._agent is not None:
            self._agent.leave_runner(self)
            self.tracer.teardown()
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

    def get_agent(self) -> LitAgent[T]:
        """See `agent`."""
        return self.agent

    def get_store(self) -> LightningStore:
        """See `store`."""
        return self.store

    def get_worker_id(self) -> str:
        """See `worker_id`."""
        return self.worker_id

    # -- work -------------------------------------------------------------------------------------------------------

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Execute rollouts from the queue until `event` is set, `max_rollouts` were taken or the store is closed.

        Rollouts under way are finished then. If `iter` is cancelled instead, their agents are stopped and their
        attempts end as `unresponsive`, with `RunnerStopped` as the error: whether they are tried again is for their
        configuration to say.

        Raises:
            StoreUnavailableError: the store can't be reached.
        """
        async with self._records:
            await self._iterate(event)

    async def _iterate(self, event: ExecutionEvent | None) -> None:
        left = self.max_rollouts
        crew = Crew(self.max_concurrency)
        try:
            async with self._heartbeats(), stopping(event) as stop:
                stop.add_done_callback(lambda _: crew.halt())
                if stop.done():
                    crew.halt()
                while left != 0 and (free := await crew.free_places()):
                    try:
                        taken = await self._dequeue(free if left is None else min(free, left), crew.halted)
                    except StoreClosedError as error:  # no more work; results may still be taken
                        logger.info("%s takes no more: %s", self._worker_id, error)
                        break
                    left = None if left is None else left - len(taken)
                    for rollout in taken:
                        crew.start(lambda done, rollout=rollout: self._execute(rollout, done))
                await crew.finish()
        except STORE_GONE as error:
            for execution in self._underway.values():
                execution.lose(error)  # there is nobody to tell what became of them
            if not isinstance(error, StoreClosedError):
                raise
            logger.info("%s ends: %s", self._worker_id, error)
        finally:
            await crew.dismiss()

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
        async with self._records, self._heartbeats(), stopping(event) as stop:
            work = asyncio.create_task(self._execute(rollout, lambda: None))
            try:
                await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled():
            raise RunnerStopped
        if (error := work.result()) is not None:
            raise error
        found = await self.store.get_rollout_by_id(rollout.rollout_id)
        assert found is not None, f"the store lost rollout {rollout.rollout_id}"
        return found

    def _heartbeats(self) -> AbstractAsyncContextManager[None]:
        heart = Heartbeat(
            self.store,
            self._worker_id,
            self._underway,
            self.heartbeat_interval,
            jitter=self.interval_jitter,
            include_gpu=self.heartbeat_include_gpu,
        )
        return heart.beating(self.heartbeat_launch_mode)

    async def _dequeue(self, limit: int, halted: asyncio.Future[None]) -> Sequence[AttemptedRollout]:
        """Up to `limit` rollouts; none if `halted` comes first. Relies on this: a cancelled dequeue takes nothing."""
        taking = asyncio.ensure_future(
            self.store.dequeue_many_rollouts(limit=limit, worker_id=self._worker_id, timeout=self.poll_interval)
        )
        try:
            await asyncio.wait({taking, halted}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            with contextlib.suppress(*STORE_GONE):
                for rollout in await cancelled(taking) or ():
                    await self.store.update_rollout(rollout.rollout_id, status="queuing")
            raise
        return await cancelled(taking) or ()

    async def _execute(self, rollout: AttemptedRollout, agent_done: Callable[[], None]) -> Exception | None:
        execution = Execution(
            rollout,
            runner=self,
            agent=self.agent,
            store=self.store,
            hooks=self._hooks,
            cache=self._cache,
            records=self._records,
            agent_done=agent_done,
        )
        self._underway[rollout.attempt.attempt_id] = execution
        try:
            return await execution.run()
        finally:
            del self._underway[rollout.attempt.attempt_id]
