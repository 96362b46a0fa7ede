"""Both sides run, and either one ends the other."""

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from agentlightning.execution import ExecutionEvent, SharedMemoryExecutionStrategy
from agentlightning.store.base import LightningStore
from agentlightning.store.memory import InMemoryLightningStore

STORE = LightningStore()


async def until_stopped(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
    await event.wait_async()


async def forever(store: LightningStore, event: ExecutionEvent) -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def no_leaked_threads():
    before = set(threading.enumerate())
    yield
    assert {t for t in threading.enumerate() if t not in before} == set()


def test_the_algorithm_runs_here_and_the_runners_on_one_loop_elsewhere():
    seen: dict[Any, Any] = {}
    started = threading.Barrier(2)

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        seen["algorithm"] = (store, threading.current_thread())
        started.wait()

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        seen[worker_id] = (store, threading.current_thread(), asyncio.get_running_loop())
        if worker_id == 2:
            asyncio.get_running_loop().call_soon(started.wait)
        await event.wait_async()
        seen["stopped", worker_id] = True

    SharedMemoryExecutionStrategy(n_runners=3).execute(algorithm, runner, STORE)
    assert seen["algorithm"] == (STORE, threading.current_thread())
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1] is not threading.current_thread()
    assert all(seen["stopped", i] for i in range(3))


def test_an_algorithm_that_raises_stops_the_runners():
    stopped: list[int] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        raise ZeroDivisionError("in the algorithm")

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await event.wait_async()
        stopped.append(worker_id)

    with pytest.raises(ZeroDivisionError, match="in the algorithm"):
        SharedMemoryExecutionStrategy(n_runners=2).execute(algorithm, runner, STORE)
    assert sorted(stopped) == [0, 1]


def test_a_runner_that_raises_stops_everybody():
    ended: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        try:
            await forever(store, event)
        finally:
            ended.append("algorithm")

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        if worker_id == 1:
            raise LookupError("in runner 1")
        await event.wait_async()
        ended.append("runner 0")

    with pytest.raises(LookupError, match="in runner 1"):
        SharedMemoryExecutionStrategy(n_runners=2).execute(algorithm, runner, STORE)
    assert sorted(ended) == ["algorithm", "runner 0"]


def test_a_runner_bundle_that_can_not_be_called_stops_everybody():
    def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> Any:
        raise TypeError("no runner")

    with pytest.raises(TypeError, match="no runner"):
        SharedMemoryExecutionStrategy().execute(forever, runner, STORE)


def test_the_first_failure_counts_and_the_second_is_logged(caplog: pytest.LogCaptureFixture):
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        try:
            await forever(store, event)
        except asyncio.CancelledError:
            raise OSError("while cleaning up") from None

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        SharedMemoryExecutionStrategy().execute(algorithm, runner, STORE)
    assert "while cleaning up" in caplog.text


def test_a_runner_that_fails_while_stopping_is_not_hidden():
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None: ...

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await event.wait_async()
        raise OSError("while stopping")

    with pytest.raises(OSError, match="while stopping"):
        SharedMemoryExecutionStrategy().execute(algorithm, runner, STORE)


def test_runners_that_take_too_long_are_cancelled():
    cancelled: list[int] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None: ...

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(worker_id)

    SharedMemoryExecutionStrategy(graceful_delay=0.01).execute(algorithm, runner, STORE)
    assert cancelled == [0]


def test_a_runner_that_can_not_be_stopped_is_an_error():
    release = threading.Event()

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None: ...

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await event.wait_async()
        release.wait()  # blocks its loop

    with pytest.raises(RuntimeError, match="did not stop within"):
        SharedMemoryExecutionStrategy(graceful_delay=0.01, join_timeout=0.01).execute(algorithm, runner, STORE)
    release.set()
    for thread in threading.enumerate():
        if thread.name == "agl-run":
            thread.join()


async def runner_that_ends(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None: ...


def test_runners_may_end_before_the_algorithm():
    done: list[bool] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        await asyncio.sleep(0.1)
        done.append(True)

    store = InMemoryLightningStore()
    SharedMemoryExecutionStrategy(n_runners=2).execute(algorithm, runner_that_ends, store)
    assert done == [True]


def test_rollouts_that_nobody_will_take_are_an_error_and_no_hang():
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        rollout = await store.enqueue_rollout("a task")
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])

    store = InMemoryLightningStore()
    with pytest.raises(RuntimeError, match="all runners have ended; raise `max_rollouts`"):
        SharedMemoryExecutionStrategy(n_runners=2).execute(algorithm, runner_that_ends, store)


def test_ctrl_c_ends_both_sides():
    ended: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await forever(store, event)
        finally:
            ended.append("algorithm")

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await event.wait_async()
        ended.append("runner")

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, runner, STORE)
    assert ended == ["algorithm", "runner"]


async def test_a_notebook_is_told_what_to_do():
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        SharedMemoryExecutionStrategy().execute(forever, until_stopped, STORE)


def test_there_is_at_least_one_runner():
    with pytest.raises(ValueError, match="`n_runners` must be at least 1, not 0"):
        SharedMemoryExecutionStrategy(n_runners=0)
