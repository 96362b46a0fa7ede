"""`Supervisor`: keeps n runner processes at work. Used by `client_server` and by `agl runner`.

A process that dies is replaced, and the attempts that it worked on end at once as `unresponsive`: whether they are
tried again is for their configuration to say. A process that can't get rid of an agent's code ends itself once its
other rollouts are done (`child.RECYCLE`) and is replaced too; one that hangs altogether is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Iterable
from itertools import count

from agentlightning.store.base import LightningStore
from agentlightning.types import (
    AgentLightningError,
    AttemptedRollout,
    LeaseLostError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)

from .child import BAD_JOB, RECYCLE, STORE_UNAVAILABLE
from .events import ExecutionEvent, wait_for_event
from .job import Job, surroundings
from .process import ChildProcess

logger = logging.getLogger(__name__)

CRASH_WINDOW_S = 60.0
CHECK_S = 0.5
"""How often hung processes are looked for."""
TURN_S = 5.0
"""How long the start of a process keeps others from starting: what takes longer waits rather than computes."""
_numbers = count()
"""Runner processes that this process has started: part of their names."""


class RunnerProcessError(AgentLightningError, RuntimeError):
    """Runner processes end by themselves again and again, or can't load the agent."""


class Supervisor:
    """Runner processes of one store.

    Args:
        bundle: The pickled runner bundle, see `job.pickled`.
        n: How many processes.
        max_restarts: How many times a process may crash within a minute, while no process finishes a rollout, before
            the run is given up.
        graceful_timeout: Seconds that rollouts under way get to finish after `stop`.
        terminate_timeout: Seconds that stopped processes get to end by themselves before they are killed.
        allowed_exit_codes: A process that ends by itself with one of these has done its work and is not replaced.
    """

    def __init__(
        self,
        bundle: bytes,
        n: int,
        *,
        max_restarts: int = 5,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
        allowed_exit_codes: Iterable[int] = (0, -15),
    ):
        if n < 1:
            raise ValueError(f"the number of runner processes must be at least 1, not {n}")
        self.n = n
        self.max_restarts = max_restarts
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.allowed_exit_codes = frozenset(allowed_exit_codes)
        self._bundle = bundle
        self._children: set[ChildProcess] = set()
        self._crashes: dict[int, list[float]] = {}
        self._turns = asyncio.Semaphore(_cores())
        """A start computes for half a second: more at once than there are cores would all be ready late."""
        self._stopping = False

    async def run(self, store: LightningStore, handle: Awaitable[bytes], stop: ExecutionEvent) -> None:
        """Keep the processes at work until `stop` is set or all of them have ended by themselves.

        Args:
            store: To end the attempts of processes that died.
            handle: The pickled store of the processes, see `job.pickled`. They start up while it is awaited.
            stop: Set: rollouts under way are finished within `graceful_timeout`.

        Raises:
            RunnerProcessError: they crash again and again; the message has the last lines of stderr.
            StoreUnavailableError: they can't reach the store.
        """
        job = asyncio.ensure_future(handle)
        slots = {asyncio.create_task(self._keep(slot, store, job)) for slot in range(self.n)}
        stopped = asyncio.create_task(wait_for_event(stop))
        watch = asyncio.create_task(self._kill_the_hung())
        try:
            running = set(slots)
            while running and not stopped.done():
                done, _ = await asyncio.wait({*running, stopped}, return_when=asyncio.FIRST_COMPLETED)
                running -= done
                if any(not task.cancelled() and task.exception() for task in done):
                    break
            job.cancel()
            await self._stop_all(slots)
        finally:
            self._stopping = True  # also where this is cancelled: no process takes the place of those that end now
            for task in (stopped, watch, job):
                task.cancel()
            for child in self._children:  # cancelled meanwhile
                child.kill()
        for task in slots:
            task.result()

    def cut_off(self) -> None:
        """Do not wait any longer for rollouts under way: their attempts end as `unresponsive`."""
        for child in self._children:
            child.cut_off()

    # -- one place --------------------------------------------------------------------------------------------------

    async def _keep(self, slot: int, store: LightningStore, handle: asyncio.Future[bytes]) -> None:
        """Keep one process at work, and put another in its place when it dies."""
        while not self._stopping:
            number = next(_numbers)
            child = ChildProcess(f"{socket.gethostname()}-{os.getpid()}-{number}", self._crashes.clear)
            self._children.add(child)
            try:
                if not await self._begin(child, number, handle):
                    return
                code = await child.wait()
            finally:
                child.kill()
                self._children.discard(child)
            done = child.finished if code == 0 else code in self.allowed_exit_codes
            if not child.finished and code != STORE_UNAVAILABLE:
                await self._end_attempts(store, child, code)
            if self._stopping or (done and not child.killed_as_hung):
                return
            await self._judge(slot, child, code)

    async def _begin(self, child: ChildProcess, number: int, handle: asyncio.Future[bytes]) -> bool:
        """Start a process when it is its turn, and give it its job; false: stopped before there was one."""
        async with self._turns:
            if self._stopping:
                return False
            await child.start()
            await asyncio.wait({handle})
            if handle.cancelled():
                return False
            about = surroundings(child.worker_name, number)
            await child.assign(Job(about, self._bundle, handle.result()).to_bytes())
            if self._stopping:
                child.stop()
            await child.wait_ready(TURN_S)
        return True

    async def _judge(self, slot: int, child: ChildProcess, code: int) -> None:
        """After the unasked end of a child: return when it may be replaced, raise if that makes no sense."""
        if code == RECYCLE or child.killed_as_hung:
            logger.warning("runner process %s is replaced: an agent's code could not be stopped", child.worker_name)
            return
        words = "\n".join(child.last_lines) or "(it wrote nothing)"
        if code == BAD_JOB:
            raise RunnerProcessError(f"a runner process could not load the agent; it said:\n{words}")
        if code == STORE_UNAVAILABLE:
            raise StoreUnavailableError(f"a runner process could not reach the store; it said:\n{words}")
        now = time.monotonic()
        crashes = [at for at in self._crashes.get(slot, ()) if now - at < CRASH_WINDOW_S] + [now]
        self._crashes[slot] = crashes
        if len(crashes) > self.max_restarts:
            raise RunnerProcessError(
                f"a runner process ended {len(crashes)} times within {now - crashes[0]:.0f} s while no rollout was "
                f"finished; the last time {_end(code)}. It said:\n{words}"
            )
        pause = min(0.1 * 2 ** (len(crashes) - 1), 5.0)
        logger.warning("runner process %s %s; another starts in %g s", child.worker_name, _end(code), pause)
        await asyncio.sleep(pause)

    async def _end_attempts(self, store: LightningStore, child: ChildProcess, code: int) -> None:
        """Tell the store at once what the process worked on when it died; its watchdog would need a while."""
        message = f"runner process {child.worker_name} {_end(code)} before the agent finished"
        error = {"type": "RunnerDied", "message": message, "traceback": "\n".join(child.last_lines)}
        try:
            for rollout in await store.query_rollouts(status_in=["preparing", "running"]):
                attempt = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
                if attempt is None or attempt.worker_id != child.worker_name:
                    continue
                try:
                    await store.update_attempt(
                        rollout.rollout_id,
                        attempt.attempt_id,
                        status="unresponsive",
                        metadata={**(attempt.metadata or {}), "error": error},
                    )
                except (LeaseLostError, NotFoundError):
                    logger.debug("attempt %s had ended already", attempt.attempt_id)
        except StoreError as gone:  # the watchdog will find them
            logger.warning("could not end the attempts of %s: %s", child.worker_name, gone)

    # -- all of them ------------------------------------------------------------------------------------------------

    async def _stop_all(self, slots: set[asyncio.Task[None]]) -> None:
        """Let them finish, then cut them off, then kill them."""
        self._stopping = True
        for child in self._children:
            child.stop()
        if await _ended(slots, self.graceful_timeout):
            return
        self.cut_off()
        if await _ended(slots, self.terminate_timeout):
            return
        for child in self._children:
            child.kill()
        await asyncio.wait(slots)

    async def _kill_the_hung(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(CHECK_S)
            late = time.monotonic() - before - CHECK_S
            for child in list(self._children):
                if late > 1.0:
                    child.postpone(late)
                await child.kill_if_hung()


async def _ended(tasks: set[asyncio.Task[None]], timeout: float) -> bool:
    return not (await asyncio.wait(tasks, timeout=timeout))[1]


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
