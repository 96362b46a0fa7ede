"""Everything in one process: the algorithm in the calling thread, all runners on one event loop in another.

The default of `Trainer`. Agents that are not async run in threads (see `runner.calls`), so a few runners serve many
slow agents; agents that burn CPU share the interpreter with training.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from agentlightning.store.base import LightningStore

from .base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from .events import ThreadingEvent

logger = logging.getLogger(__name__)


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Algorithm and runners in one process, stopped together.

    Args:
        n_runners: How many runner bundles run, with worker ids 0, 1, ...
        join_timeout: Seconds that cancelled runners get to clean up before their thread is given up.
        graceful_delay: Seconds that rollouts under way get to finish when the run ends, before they are cancelled.

    Raises:
        ValueError: `n_runners` is less than 1.
    """

    def __init__(self, n_runners: int = 1, join_timeout: float = 15.0, graceful_delay: float = 5.0):
        if n_runners < 1:
            raise ValueError(f"`n_runners` must be at least 1, not {n_runners}")
        self.n_runners = n_runners
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run until the algorithm returns, then stop the runners.

        An exception of one side ends the other and is raised here: the first one, later ones are logged. Ctrl-C ends
        both and is raised here.

        Raises:
            RuntimeError: this thread runs an event loop (a notebook), or the runners did not stop.
        """
        _refuse_running_loop()
        run = _Run(self, algorithm, runner, store)
        thread = threading.Thread(target=run.host_runners, name="agl-runners", daemon=True)
        thread.start()
        try:
            run.host_algorithm()
        finally:
            run.event.set()
            thread.join(self.graceful_delay + self.join_timeout)
        for later in run.errors[1:]:
            logger.error("a second failure while the run was ending", exc_info=later)
        if run.errors:
            raise run.errors[0]
        if thread.is_alive():
            raise RuntimeError(
                f"the runners did not stop within {self.graceful_delay + self.join_timeout:g} s; does an agent swallow "
                "`asyncio.CancelledError` or block the event loop?"
            )


class _Run:
    """One call of `execute`: two event loops in two threads, and what they tell each other."""

    def __init__(
        self,
        strategy: SharedMemoryExecutionStrategy,
        algorithm: AlgorithmBundle,
        runner: RunnerBundle,
        store: LightningStore,
    ):
        self.event = ThreadingEvent()
        """Set when the run ends, for whatever reason."""
        self.errors: list[BaseException] = []
        """What either side raised, in order of time."""
        self._crashed = ThreadingEvent()
        self._strategy = strategy
        self._algorithm = algorithm
        self._runner = runner
        self._store = store

    def host_algorithm(self) -> None:
        """Run the algorithm in this thread until it ends or a runner fails."""
        try:
            asyncio.run(self._algorithm_or_crash())
        except Exception as error:  # noqa: BLE001  # raised by `execute` once the runners have stopped
            self.errors.append(error)

    def host_runners(self) -> None:
        """Run all runners in this thread until they end."""
        try:
            asyncio.run(self._runners_until_stop())
        except BaseException as error:  # noqa: BLE001  # raised by `execute` in its own thread
            self.errors.append(error)
            self.event.set()
            self._crashed.set()

    async def _algorithm_or_crash(self) -> None:
        algorithm = asyncio.ensure_future(self._algorithm(self._store, self.event))
        crash = asyncio.create_task(self._crashed.wait_async())
        try:
            await asyncio.wait({algorithm, crash}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            crash.cancel()
            if not algorithm.done():
                algorithm.cancel()
                await asyncio.wait({algorithm})
        if not algorithm.cancelled():
            algorithm.result()

    async def _runners_until_stop(self) -> None:
        tasks: set[asyncio.Future[None]] = {
            asyncio.ensure_future(self._runner(self._store, worker_id, self.event))
            for worker_id in range(self._strategy.n_runners)
        }
        stop = asyncio.create_task(self.event.wait_async())
        running = set(tasks)
        while running and not self.event.is_set():
            done, _ = await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)
            running -= done
            if any(task.exception() for task in done if task is not stop):
                self.event.set()
                self._crashed.set()
        if not self.event.is_set():
            await self._without_runners(stop)
        stop.cancel()
        await _end(running, self._strategy.graceful_delay)
        for error in [e for task in tasks if not task.cancelled() and (e := task.exception())]:
            raise error

    async def _without_runners(self, stop: asyncio.Future[None]) -> None:
        """All runners have ended by themselves (`max_rollouts`): fine, while the algorithm wants no more of them."""
        while not self.event.is_set():
            if (await self._store.query_rollouts(status_in=["queuing", "requeuing"], limit=1)).total:
                self.event.set()
                self._crashed.set()
                raise RuntimeError(
                    "rollouts are queued and all runners have ended; raise `max_rollouts`, or leave it out"
                )
            await asyncio.wait({stop}, timeout=1.0)


async def _end(tasks: set[asyncio.Future[None]], graceful_delay: float) -> None:
    """Wait for `tasks`, and cancel those that take longer than `graceful_delay` seconds."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=graceful_delay)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "this thread runs an event loop already (a notebook, or an async function); "
        "call it in a thread, as in `await asyncio.to_thread(trainer.fit, agent, train_dataset)`"
    )
