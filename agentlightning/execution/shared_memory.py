"""Everything in one process: the algorithm in the calling thread, all runners on one event loop in another.

The default of `Trainer`. Agents that are not async run in threads (see `runner.calls`), so a few runners serve many
slow agents; agents that burn CPU share the interpreter with training.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var
from agentlightning.store.base import LightningStore
from agentlightning.types import ConfigError

from .base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from .run import Run, refuse_running_loop


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Algorithm and runners in one process, stopped together.

    Args:
        n_runners: How many runner bundles run, with worker ids 0, 1, ...
        main_thread: Which side runs in the calling thread, `algorithm` or `runner`; the latter helps to debug an async
            agent and takes one runner.
        join_timeout: Seconds that cancelled runners get to clean up before their thread is given up.
        graceful_delay: Seconds that rollouts under way get to finish when the run ends, before they are cancelled.
        poll_interval: Taken for the sake of Agent-Lightning 0.3; nothing polls here.
        managed_store: Whether a store that is not made for several threads is put behind a lock; `None`:
            `AGL_MANAGED_STORE`, else yes.

    Raises:
        ValueError: `n_runners` is less than 1, or not 1 with `main_thread="runner"`.
    """

    alias = "shm"

    def __init__(
        self,
        n_runners: int = 1,
        main_thread: Literal["algorithm", "runner"] = "algorithm",
        join_timeout: float = 15.0,
        graceful_delay: float = 5.0,
        poll_interval: float = 0.05,
        managed_store: bool | None = None,
    ):
        if n_runners < 1:
            raise ValueError(f"`n_runners` must be at least 1, not {n_runners}")
        if main_thread not in ("algorithm", "runner"):
            raise ValueError(f"`main_thread` must be `algorithm` or `runner`, not {main_thread!r}")
        if main_thread == "runner" and n_runners != 1:
            raise ValueError(f"`main_thread='runner'` takes one runner, and `n_runners` is {n_runners}")
        self.n_runners = n_runners
        self.main_thread = main_thread
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay
        self.poll_interval = poll_interval
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, fallback=True)

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore | None) -> None:
        """Run until the algorithm returns, then stop the runners.

        An exception of one side ends the other and is raised here: the first one, later ones are logged. Ctrl-C ends
        both and is raised here.

        Raises:
            RuntimeError: this thread runs an event loop (a notebook), or the runners did not stop.
        """
        refuse_running_loop()
        if store is None:
            raise ConfigError("this strategy needs a store")
        shared = self._shared(store)

        async def runners(run: Run) -> None:
            await self._run_bundles(runner, shared, run)

        Run(algorithm, runners, shared).execute(self.graceful_delay + self.join_timeout, main=self.main_thread)

    def _shared(self, store: LightningStore) -> LightningStore:
        if not self.managed_store or type(store) is LightningStore or store.capabilities.get("thread_safe"):
            return store
        from agentlightning.store.threading import LightningStoreThreaded

        return LightningStoreThreaded(store)

    async def _run_bundles(self, runner: RunnerBundle, store: LightningStore, run: Run) -> None:
        tasks: set[asyncio.Future[None]] = {
            asyncio.ensure_future(runner(store, worker_id, run.event)) for worker_id in range(self.n_runners)
        }
        stop = asyncio.create_task(run.event.wait_async())
        running = set(tasks)
        while running and not run.event.is_set():
            done, _ = await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)
            running -= done
            for task in done - {stop}:
                if not task.cancelled() and (error := task.exception()) is not None:
                    run.fail(error)
        stop.cancel()
        await _end(running, self.graceful_delay)
        for error in [e for task in tasks if not task.cancelled() and (e := task.exception())]:
            raise error


async def _end(tasks: set[asyncio.Future[None]], graceful_delay: float) -> None:
    """Wait for `tasks`, and cancel those that take longer than `graceful_delay` seconds."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=graceful_delay)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
